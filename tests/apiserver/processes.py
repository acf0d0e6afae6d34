"""Child processes of a test session, and waiting for them. Each is stopped by its pid, in every way
that a session can end."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.02
GRACE_SECONDS = 10


class NotReadyError(AssertionError):
    """Something that a test waits for did not happen in time."""


@contextmanager
def running(
    command: Sequence[str], log: Path, *, cwd: Path | None = None, patient: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program with its output in `log`; ends it with SIGTERM if `patient`, and else with SIGKILL."""
    with log.open("wb") as output:
        process = subprocess.Popen(dying_with_parent(command), stdout=output, stderr=subprocess.STDOUT, cwd=cwd)
    try:
        yield process
    finally:
        if not patient:
            process.kill()
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a process and returns its exit code."""
    process.terminate()
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, ended by the kernel with the thread that starts it: a killed test session runs no finaliser.

    SIGKILL, because kube-apiserver waits for ever in its shutdown when etcd ends first. A program in front, because
    Python forks for a `preexec_fn`, and gRPC's threads do not survive a fork of this process.
    """
    return ["setpriv", "--pdeathsig=KILL", *command] if shutil.which("setpriv") else [*command]


def eventually(ask: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """Polls until `ask` answers something true and returns that; raises NotReadyError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise NotReadyError(f"not within {seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
    return answer


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for the message of a failure."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
