"""The webhooks that are measured, each a process of its own: how it starts, and what it costs (proc(5))."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from tests.apiserver.processes import NotReadyError, running, tail
from tests.bench.client import Target, WrongAnswerError, burst, trusting

CHECKOUT = Path(__file__).parents[2]
START_SECONDS = 30
POLL_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Contestant:
    """A webhook's command, and how its output tells the port that it serves on."""

    name: str
    command: tuple[str, ...]
    port: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Server:
    """A contestant that runs."""

    pid: int
    target: Target

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def rss_megabytes(self) -> float:
        return rss_megabytes(self.pid)


def certify(directory: Path) -> SSLContext:
    """Writes a certificate for the contestants; returns the context of clients that trust it."""
    subprocess.run(
        [sys.executable, "-m", "certs", "dev", str(directory)], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL
    )
    return trusting(directory / "ca.crt")


def ours(tls: Path) -> Contestant:
    """The product, as its Deployment runs it."""
    command = ("-m", "webhook", "serve", "--tls-dir", str(tls), "--port", "0", "--metrics-port", "0")
    return Contestant("ours", command, re.compile(r'"event": ?"serving".*"port": ?(\d+)'))


def naive(tls: Path) -> Contestant:
    """The baseline under uvicorn's own command, with nothing set but what it needs."""
    files = ("--ssl-certfile", str(tls / "tls.crt"), "--ssl-keyfile", str(tls / "tls.key"))
    command = ("-m", "uvicorn", "tests.bench.naive:app", "--port", "0", *files)
    return Contestant("naive", command, re.compile(r"running on https://127\.0\.0\.1:(\d+)"))


@contextmanager
def serving(contestant: Contestant, tls: SSLContext, body: bytes, log: Path) -> Iterator[tuple[Server, float]]:
    """Runs a contestant until it has answered `body`; also says how many seconds after its start that was."""
    start = time.perf_counter()
    with running((sys.executable, *contestant.command), log, cwd=CHECKOUT) as process:
        target = Target(_await_port(contestant, process, log), tls)
        try:
            burst(target, [body])
        except WrongAnswerError as error:
            raise NotReadyError(f"{contestant.name} does not inject: {error}\n{tail(log)}") from None
        try:
            yield Server(process.pid, target), time.perf_counter() - start
        finally:
            process.kill()  # its way to end well takes as long as endpoints need, and is tested elsewhere


def _await_port(contestant: Contestant, process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := contestant.port.search(log.read_text(errors="replace")):
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(POLL_SECONDS)
    raise NotReadyError(f"{contestant.name} does not serve:\n{tail(log)}")


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of a process, its children and all threads, in the kernel's resolution."""
    return sum(time.clock_gettime(_cpu_clock(one)) for one in _tree(pid))


def rss_megabytes(pid: int) -> float:
    """What a process and its children hold of memory now, in MiB."""
    return sum(_rss_kilobytes(one) for one in _tree(pid)) / 1024


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid(3) names it on Linux."""
    return (~pid << 3) | 2


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _tree(int(child))


def _rss_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
