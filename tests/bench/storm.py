"""What many proxies cost the control plane: thousands of streams in one process, and proxies that take what they get.

A second, smaller crowd meets a tenth of the Services: what a proxy does not use must not cost anything. A third is of
the seed's scale, 1,500 Services with 6 upstreams each, and every endpoint of every Service is replaced under it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.contestants import CHECKOUT, certify
from tests.bench.table import Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How many proxies and Services, how often one of these changes for all, and the size of the other crowds."""

    proxies: int
    services: int
    changes: int
    few: int
    rolled: int


FULL = Plan(proxies=5000, services=5000, changes=10, few=1000, rolled=1500)
QUICK = Plan(proxies=100, services=100, changes=3, few=50, rolled=60)
USED, EDGES = 20, 6


@dataclass(slots=True)
class Figures:
    """What came out. Times in seconds, CPU in ms, memory in MiB."""

    connect: float = 0
    memory: float = 0
    stream: float = 0  # KiB
    opening: float = 0  # CPU of each stream until all is told
    median: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    push: list[float] = field(default_factory=list)
    push_of_few: list[float] = field(default_factory=list)  # with all Services
    push_in_small: list[float] = field(default_factory=list)  # with a tenth of them
    rolled: dict[str, float] = field(default_factory=dict)
    without: float = 0  # assignments without an endpoint that any proxy was sent


def measure(plan: Plan) -> Figures:
    """Takes some two minutes in the full plan. Raises RuntimeError if a process ends early."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as name:
        tls = Path(name)
        certify(tls)
        with _crowd(plan.proxies, plan.services, USED, tls) as (plane, crowd):
            before = plane.ask("stats")
            figures.connect = crowd.read()["seconds"]
            crowd.ask("quiet")
            after = plane.ask("stats")
            figures.memory = after["rss"]
            figures.stream = (after["rss"] - before["rss"]) * 1024 / plan.proxies
            figures.opening = 1000 * (after["cpu"] - before["cpu"]) / plan.proxies
            figures.push = _pushes(plan.proxies, plan.changes, plane, crowd, figures)
        for services, pushes in (
            (plan.services, figures.push_of_few),
            (max(plan.services // 10, USED + 1), figures.push_in_small),
        ):
            with _crowd(plan.few, services, USED, tls) as (plane, crowd):
                crowd.read()
                crowd.ask("quiet")
                pushes += _pushes(plan.few, plan.changes, plane, crowd)
        with _crowd(plan.rolled, plan.rolled, EDGES, tls) as (plane, crowd):
            crowd.read()
            crowd.ask("quiet")
            figures.rolled = plane.ask("roll")
            figures.without = crowd.ask("quiet")["without"]
    return figures


def rows(figures: Figures) -> Iterator[Row]:
    """The table's."""
    yield Row("5,000 proxies connect and are told all, s", "", [figures.connect])
    yield Row("  CPU of each, ms", "", [figures.opening])
    yield Row("memory of a stream, KiB", "", [figures.stream], goal=140, aim=138)
    yield Row("memory in all, MiB", "", [figures.memory], goal=850, aim=750)
    yield Row("a change at the median proxy, s", "", figures.median)
    yield Row("a change at the last proxy, s", "", figures.last, goal=1.0, aim=0.5)
    yield Row("CPU per proxy and push, ms", "", figures.push, goal=0.15, aim=0.10)
    yield Row("  with fewer proxies", "", figures.push_of_few)
    yield Row("  and with a tenth of the Services", "", figures.push_in_small)
    yield Row("every Service rolled: CPU per push, ms", "", [figures.rolled["cpu_ms"]])
    yield Row("  bytes per push", "", [figures.rolled["bytes"]])
    yield Row("  assignments without an endpoint", "", [figures.without], goal=0, aim=0)


class _Process:
    """One that answers lines by lines."""

    def __init__(self, module: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the bench ended: {self.process.args!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def _crowd(proxies: int, services: int, used: int, tls: Path) -> Iterator[tuple[_Process, _Process]]:
    with ExitStack() as stack:
        plane = _Process("plane", services, used, tls)
        stack.callback(plane.end)
        port = plane.read()["port"]
        namespaces = max((services - 1) // (used - 1), 1)
        crowd = _Process("crowd", proxies, namespaces, port, tls / "ca.crt")
        stack.callback(crowd.end)
        yield plane, crowd


def _pushes(
    proxies: int, changes: int, plane: _Process, crowd: _Process, figures: Figures | None = None
) -> list[float]:
    """The server's CPU, in ms, for each proxy, of each of so many changes that concern all."""
    found = []
    for _ in range(changes):
        crowd.ask("mark")
        before = plane.ask("stats")["cpu"]
        start = plane.ask("change")["at"]
        heard = crowd.ask("next")
        crowd.ask("quiet")
        found.append(1000 * (plane.ask("stats")["cpu"] - before) / proxies)
        if figures is not None:
            figures.median.append(heard["median"] - start)
            figures.last.append(heard["last"] - start)
    return found
