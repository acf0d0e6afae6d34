"""Network namespaces, and calls from inside them. One lives as long as the process that holds it, and that dies with
the test session: whatever ends a session, nothing is left behind."""

import ctypes
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

from tests.apiserver.processes import eventually, running

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
# setresgid and setresuid of one thread: those of the C library set the ids of all.
_SET_IDS = {"x86_64": (119, 117), "aarch64": (149, 147)}
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class NetNs:
    """A network namespace, by the process that holds it."""

    holder: int

    @property
    def path(self) -> str:
        return f"/proc/{self.holder}/ns/net"

    def run(self, *command: str, stdin: str = "") -> str:
        """What a command prints that runs inside. Raises CalledProcessError, with what it complained of."""
        whole = ["nsenter", f"--net={self.path}", *command]
        finished = subprocess.run(whole, input=stdin, text=True, capture_output=True, check=False)
        if finished.returncode:
            raise subprocess.CalledProcessError(finished.returncode, command, finished.stdout, finished.stderr)
        return finished.stdout

    def call(self, function: Callable[[], T], *, uid: int = 0, gid: int = 0) -> T:
        """What `function` returns, or raises, in a thread inside: sockets that it opens are that user's, and in here.

        Threads that it starts are inside too.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter(uid, gid)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=inside, daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def _enter(self, uid: int, gid: int) -> None:
        with Path(self.path).open() as namespace:
            _checked(_LIBC.setns(namespace.fileno(), CLONE_NEWNET), "setns")
        set_gid, set_uid = _SET_IDS[platform.machine()]
        if (uid, gid) != (0, 0):
            _checked(_LIBC.syscall(set_gid, gid, gid, gid), "setresgid")
            _checked(_LIBC.syscall(set_uid, uid, uid, uid), "setresuid")


def _checked(result: int, name: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def namespace() -> Iterator[NetNs]:
    """A new network namespace in which loopback is up."""
    with tempfile.TemporaryDirectory() as folder, running(["unshare", "--net", *_HOLD], Path(folder) / "log") as holder:
        ours = Path("/proc/self/ns/net").readlink()
        theirs = Path(f"/proc/{holder.pid}/ns/net")
        eventually(lambda: theirs.readlink() != ours, "a new network namespace")
        made = NetNs(holder.pid)
        made.run("ip", "link", "set", "lo", "up")
        yield made


_HOLD: Sequence[str] = ("sleep", "infinity")
