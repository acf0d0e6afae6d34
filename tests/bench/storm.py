"""What many proxies cost the control plane: thousands of streams in one process, and proxies that take what they get.

A second, smaller crowd meets a tenth of the Services: what a proxy does not use must not cost anything. A third is of
the seed's scale, 1,500 Services and 9,300 edges to them, and every one of these Services is rolled out under it.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.apiserver import binaries
from tests.bench.contestants import CHECKOUT, certify
from tests.bench.table import Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How many proxies and Services, how often one of these changes for all, and the size of the other crowds.

    `rolled` are Services, and each proxy has EDGES of `edges`.
    """

    proxies: int
    services: int
    changes: int
    few: int
    rolled: int
    edges: int


FULL = Plan(proxies=5000, services=5000, changes=10, few=1000, rolled=1500, edges=9300)
QUICK = Plan(proxies=100, services=100, changes=3, few=50, rolled=60, edges=360)
USED, EDGES = 20, 6
SETTLING = 0.2  # seconds in which the last answers arrive; a second of doing nothing costs as much as some pushes
PEER = Path(__file__).parent / "peer"


@dataclass(slots=True)
class Server:
    """What one server of the whole crowd showed. Times in seconds, CPU in ms, memory in MiB."""

    connect: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # connections that ended before all was told
    memory: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    stream: list[float] = field(default_factory=list)  # KiB
    opening: list[float] = field(default_factory=list)  # CPU of each stream until all is told
    median: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    push: list[float] = field(default_factory=list)  # CPU of each stream and change


@dataclass(slots=True)
class Figures:
    """What came out."""

    ours: Server = field(default_factory=Server)
    peer: Server = field(default_factory=Server)  # go-control-plane, where there is Go
    push_of_few: list[float] = field(default_factory=list)  # with all Services
    push_in_small: list[float] = field(default_factory=list)  # with a tenth of them
    altered: float = 0  # CPU for a change of a Service that few proxies see, in ms
    rolled: dict[str, float] = field(default_factory=dict)
    without: float = 0  # how often a proxy had no endpoint of a Service, or no longer had the Service
    differing: float = 0  # of EDGES of all proxies, those that do not lead to the endpoints that there are at the end


def measure(plan: Plan) -> Figures:
    """Takes some four minutes in the full plan, and one more to build the other server for the first time.

    Raises RuntimeError if a process ends early.
    """
    figures = Figures()
    with tempfile.TemporaryDirectory() as name:
        tls = Path(name)
        certify(tls)
        with _crowd(plan.proxies, plan.services, USED, tls) as (plane, crowd):
            _observe(plan, plane, crowd, figures.ours)
            figures.altered = plane.ask("alter")["cpu_ms"]
            figures.ours.peak.append(plane.ask("stats")["peak"])
            plane.ask("dump")
        if (peer := built_peer()) is not None:
            command = [str(peer), str(tls / "world.json"), str(tls)]
            with _crowd(plan.proxies, plan.services, USED, tls, command) as (plane, crowd):
                _observe(plan, plane, crowd, figures.peer)
                figures.peer.peak.append(plane.ask("stats")["peak"])
        for services, pushes in (
            (plan.services, figures.push_of_few),
            (max(plan.services // 10, USED + 1), figures.push_in_small),
        ):
            with _crowd(plan.few, services, USED, tls) as (plane, crowd):
                crowd.read()
                crowd.ask("quiet")
                pushes += (push.cpu for push in _pushes(plan.few, plan.changes, plane, crowd))
        with _crowd(plan.edges // EDGES, plan.rolled, EDGES, tls) as (plane, crowd):
            crowd.read()
            crowd.ask("quiet")
            figures.rolled = plane.ask("roll")
            figures.without = crowd.ask("quiet")["without"]
            known = crowd.ask("edges")
            figures.differing = plan.edges - sum(known.get(one, 0) for one in plane.ask("endpoints"))
    return figures


def rows(figures: Figures) -> Iterator[Row]:
    """The table's."""
    ours, peer = figures.ours, figures.peer
    yield Row("all connect and are told all, s", "", ours.connect, peer.connect)
    yield Row("  CPU of each, ms", "", ours.opening, peer.opening)
    yield Row("  refused while all connect", "", ours.refused, peer.refused, goal=0, aim=0)
    yield Row("memory of a stream, KiB", "", ours.stream, peer.stream, goal=140, aim=138)
    yield Row("memory in all, MiB", "", ours.memory, peer.memory, goal=850, aim=750)
    yield Row("  at its peak, after all changes", "", ours.peak, peer.peak, goal=850, aim=750)
    yield Row("a change at the median proxy, s", "", ours.median, peer.median)
    yield Row("a change at the last proxy, s", "", ours.last, peer.last, goal=1.0, aim=0.5)
    yield Row("  at most", "", [max(ours.last)], [max(peer.last)] if peer.last else ())
    yield Row("CPU per proxy and push, ms", "", ours.push, peer.push, goal=0.15, aim=0.10)
    yield Row("  with fewer proxies", "", figures.push_of_few)
    yield Row("  and with a tenth of the Services", "", figures.push_in_small)
    unused = statistics.median(figures.push_of_few) / statistics.median(figures.push_in_small)
    yield Row("  all Services against a tenth, times", "", [unused], goal=1.25, aim=1.1)
    yield Row("a Service that one namespace sees: CPU, ms", "", [figures.altered])
    yield Row("every Service rolled: CPU per push, ms", "", [figures.rolled["cpu_ms"]])
    yield Row("  bytes per push", "", [figures.rolled["bytes"]])
    yield Row("  a Service without an endpoint, or gone, times", "", [figures.without], goal=0, aim=0)
    yield Row("  other endpoints than there are at the end", "", [figures.differing], goal=0, aim=0)


def built_peer() -> Path | None:
    """The program of `peer/`, built where its version says; None without Go."""
    go = binaries.usable_go()
    if go is None:
        return None
    version = hashlib.sha256(b"".join((PEER / name).read_bytes() for name in ("main.go", "go.sum"))).hexdigest()[:10]
    program = binaries.caches() / f"discovery-peer-{version}"
    with binaries.only_one(binaries.caches() / ".discovery-peer.lock"):
        if not program.exists():
            environment = {**os.environ, "CGO_ENABLED": "0"}
            subprocess.run([go, "build", "-o", str(program), "."], cwd=PEER, env=environment, check=True)
    return program


class Process:
    """One that answers lines by lines."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the bench ended: {self.process.args!r}")
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def plane(services: int, used: int, tls: Path, server: Sequence[str] = ()) -> Iterator[tuple[Process, int]]:
    """The server, ours unless it is said, and its port."""
    process = Process(*(server or (sys.executable, "-m", "tests.bench.plane", services, used, tls)))
    try:
        yield process, process.read()["port"]
    finally:
        process.end()


@contextmanager
def _crowd(
    proxies: int, services: int, used: int, tls: Path, server: Sequence[str] = ()
) -> Iterator[tuple[Process, Process]]:
    """The server, ours unless it is said, and proxies that have begun to connect."""
    with ExitStack() as stack:
        running, port = stack.enter_context(plane(services, used, tls, server))
        namespaces = max((services - 1) // (used - 1), 1)
        crowd = Process(sys.executable, "-m", "tests.bench.crowd", proxies, namespaces, port, tls / "ca.crt")
        stack.callback(crowd.end)
        yield running, crowd


def _observe(plan: Plan, plane: Process, crowd: Process, server: Server) -> None:
    before = plane.ask("stats")
    connected = crowd.read()
    server.connect.append(connected["seconds"])
    server.refused.append(connected["refused"])
    crowd.ask("quiet")
    after = plane.ask("stats")
    server.memory.append(after["rss"])
    server.stream.append((after["rss"] - before["rss"]) * 1024 / plan.proxies)
    server.opening.append(1000 * (after["cpu"] - before["cpu"]) / plan.proxies)
    for push in _pushes(plan.proxies, plan.changes, plane, crowd):
        server.median.append(push.median)
        server.last.append(push.last)
        server.push.append(push.cpu)


@dataclass(frozen=True, slots=True)
class _Push:
    """Of one change that concerns all: when it was at the median and the last proxy, and the CPU for each, in ms."""

    median: float
    last: float
    cpu: float


def _pushes(proxies: int, changes: int, plane: Process, crowd: Process) -> Iterator[_Push]:
    for _ in range(changes):
        crowd.ask("mark")
        before = plane.ask("stats")["cpu"]
        start = plane.ask("change")["at"]
        heard = crowd.ask("next")
        time.sleep(SETTLING)
        cpu = 1000 * (plane.ask("stats")["cpu"] - before) / proxies
        crowd.ask("quiet")
        yield _Push(heard["median"] - start, heard["last"] - start, cpu)
