"""What is measured, and how: in rounds, in each of them every contestant with every kind of body after the other.

A neighbour's load then falls on both, and what counts is the median of the rounds' figures.
"""

import base64
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Literal, NamedTuple

import jsonpatch

from tests.bench.bodies import KB, Bodies
from tests.bench.client import WrongAnswerError, burst, connections, keep_busy, pace
from tests.bench.contestants import Contestant, Server, certify, naive, ours, serving

SIZES = (10, 32, 64, 128)  # KB
CPU_CONNECTIONS, LATENCY_CONNECTIONS, PACED_CONNECTIONS, FRESH_CONNECTIONS = 16, 64, 8, 64
PER_SECOND = 50

Metric = Literal[
    "cpu", "growth", "p99", "paced_p50", "paced_p99", "burst_p50", "burst_p99", "start", "idle", "used", "scale"
]


class Figure(NamedTuple):
    """What was measured, of whom, with which bodies. CPU is in µs, latencies and starts in ms, memory in MB."""

    metric: Metric
    contestant: str
    differing: bool = False


SCALE = Figure("scale", "machine")  # how fast the machine is just then


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Requests are per round and measurement; naive gets fewer, for it takes longer."""

    rounds: int
    starts: int
    requests: int
    naive_requests: int
    growth_requests: int
    paced_seconds: float
    bursts: int


FULL = Plan(rounds=5, starts=5, requests=2000, naive_requests=400, growth_requests=400, paced_seconds=3, bursts=2)
QUICK = Plan(rounds=1, starts=1, requests=192, naive_requests=64, growth_requests=48, paced_seconds=0.4, bursts=1)


@dataclass(slots=True)
class Samples:
    """One value per round of every figure."""

    of: dict[Figure, list[float]] = field(default_factory=dict)

    def add(self, figure: Figure, value: float) -> None:
        self.of.setdefault(figure, []).append(value)


def measure(plan: Plan) -> Samples:
    """Runs the contestants and measures them; takes a second a start, and some 30 a round in the full plan.

    Raises WrongAnswerError if any answer of any contestant was no patch, NotReadyError if one does not serve.
    """
    samples = Samples()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        tls = certify(directory)
        contestants = (ours(directory), naive(directory))
        for _ in range(plan.starts - 1):
            for contestant in contestants:
                with _started(contestant, tls, directory, samples):
                    pass
        servers = {one.name: stack.enter_context(_started(one, tls, directory, samples)) for one in contestants}
        bodies = {differing: [Bodies(size * KB, differing) for size in SIZES] for differing in (False, True)}
        for _ in range(plan.rounds):
            samples.add(SCALE, json_microseconds(next(bodies[False][0].take(1))))
            for differing, sizes in bodies.items():
                for name_, server in servers.items():
                    _round(plan, Figure("cpu", name_, differing), server, sizes, samples)
        for name_, server in servers.items():
            samples.add(Figure("used", name_), server.rss_megabytes())
    return samples


@contextmanager
def _started(contestant: Contestant, tls: SSLContext, directory: Path, samples: Samples) -> Iterator[Server]:
    body = next(Bodies(SIZES[0] * KB, differing=False).take(1))
    with serving(contestant, tls, body, directory / f"{contestant.name}.log") as (server, seconds):
        samples.add(Figure("start", contestant.name), seconds * 1e3)
        samples.add(Figure("idle", contestant.name), server.rss_megabytes())
        yield server


def _round(plan: Plan, figure: Figure, server: Server, sizes: Sequence[Bodies], samples: Samples) -> None:
    is_ours = figure.contestant == "ours"
    bodies, count = sizes[0], plan.requests if is_ours else plan.naive_requests

    def add(metric: Metric, value: float) -> None:
        samples.add(figure._replace(metric=metric), value)

    check_injection(server, next(bodies.take(1)))
    add("cpu", cpu_microseconds(server, bodies, count))
    if is_ours:
        add("growth", growth(server, sizes, plan.growth_requests))
    add("p99", percentile(busy(server, bodies, count), 99) * 1e3)
    seconds = paced(server, bodies, plan.paced_seconds)
    add("paced_p50", percentile(seconds, 50) * 1e3)
    add("paced_p99", percentile(seconds, 99) * 1e3)
    bursts = [sec for _ in range(plan.bursts) for sec in burst(server.target, bodies.take(FRESH_CONNECTIONS)).seconds]
    add("burst_p50", percentile(bursts, 50) * 1e3)
    add("burst_p99", percentile(bursts, 99) * 1e3)


def check_injection(server: Server, body: bytes) -> None:
    """Raises WrongAnswerError unless the answer to `body` is for it, and its patch makes a pod with the sidecar."""
    review = json.loads(body)
    answer = json.loads(burst(server.target, [body]).last)["response"]
    pod = jsonpatch.apply_patch(review["request"]["object"], json.loads(base64.b64decode(answer["patch"])))
    names = [one["name"] for one in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])]
    if answer["uid"] != review["request"]["uid"] or {"app", "envoy-sidecar", "envoy-sidecar-init"} - {*names}:
        raise WrongAnswerError(f"uid {answer['uid']}, containers {names}")


def cpu_microseconds(server: Server, bodies: Bodies, count: int) -> float:
    """The server's CPU time for one admission over CPU_CONNECTIONS busy connections."""
    with connections(server.target, CPU_CONNECTIONS) as sockets:
        keep_busy(server.target, sockets, bodies.take(CPU_CONNECTIONS))  # ends what handshakes leave to do
        before = server.cpu_seconds()
        keep_busy(server.target, sockets, bodies.take(count))
        return (server.cpu_seconds() - before) / count * 1e6


def growth(server: Server, sizes: Sequence[Bodies], count: int) -> float:
    """By how much a KB of body raises the CPU time for one admission, in µs: the slope over all sizes."""
    costs = [cpu_microseconds(server, bodies, count) for bodies in sizes]
    return statistics.linear_regression([bodies.size / KB for bodies in sizes], costs).slope


def busy(server: Server, bodies: Bodies, count: int) -> list[float]:
    """Seconds of `count` answers over LATENCY_CONNECTIONS busy connections."""
    with connections(server.target, LATENCY_CONNECTIONS) as sockets:
        keep_busy(server.target, sockets, bodies.take(LATENCY_CONNECTIONS))
        return keep_busy(server.target, sockets, bodies.take(count)).seconds


def paced(server: Server, bodies: Bodies, seconds: float) -> list[float]:
    """Seconds of the answers to PER_SECOND requests a second."""
    with connections(server.target, PACED_CONNECTIONS) as sockets:
        return pace(server.target, sockets, bodies.take(round(seconds * PER_SECOND)), PER_SECOND).seconds


def json_microseconds(body: bytes) -> float:
    """The CPU time that this process takes to read `body`: absolute figures compare over runs only where it does."""
    before = time.process_time()
    for _ in range(200):
        json.loads(body)
    return (time.process_time() - before) / 200 * 1e6


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def least(measured: Callable[[], float], goal: float, rounds: int = 5) -> float:
    """The first that meets the goal, else the least of so many: a neighbour's load only adds."""
    found = float("inf")
    for _ in range(rounds):
        found = min(found, measured())
        if found <= goal:
            break
    return found
