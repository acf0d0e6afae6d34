"""What a request costs on its way through sidecars: from pod to pod in the lab, with real rules and real Envoys.

In rounds, in each of them every path after the other, so that a neighbour's load falls on all. The application is an
Envoy too, which answers by itself: it costs next to nothing, and so hides nothing.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import envoy, mounted, needs
from tests.bench.contestants import cpu_seconds, rss_megabytes
from tests.bench.floor import BOOTSTRAP
from tests.bench.measure import percentile
from tests.bench.table import Row
from tests.dataplane.lab import Document, Lab, Pod, application, asks, lab, manifest

PORT = 8080
BUSY_CONNECTIONS = 32
PATHS = ("direct", "one hop", "two hops", "floor")  # the floor has two hops
SIDECAR = "envoy-sidecar"

_ANSWER = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "x" * 512}}}
_ROUTES = {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [_ANSWER]}]}
_TYPE = "type.googleapis.com/envoy.extensions.filters."
_MANAGER = {
    "@type": f"{_TYPE}network.http_connection_manager.v3.HttpConnectionManager",
    "stat_prefix": "app",
    "route_config": _ROUTES,
    "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPE}http.router.v3.Router"}}],
}
_APPLICATION = {
    "static_resources": {
        "listeners": [
            {
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": PORT}},
                "filter_chains": [{"filters": [{"name": "http", "typed_config": _MANAGER}]}],
            }
        ]
    }
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds, seconds of each measurement, and of the steady run at the end."""

    rounds: int
    seconds: float
    steady_seconds: float


FULL = Plan(rounds=5, seconds=2, steady_seconds=60)
QUICK = Plan(rounds=1, seconds=0.5, steady_seconds=1)


@dataclass(slots=True)
class Figures:
    """By path, one value per round. Latencies and CPU in µs, rates per second, memory in MiB, starts in ms."""

    p50: dict[str, list[float]] = field(default_factory=dict)
    p99: dict[str, list[float]] = field(default_factory=dict)
    rate: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)  # of one request in one sidecar
    ready: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    steady_rate: float = 0
    steady_errors: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw: the seconds of each answer, the wall time, and how many had another status than 200."""

    seconds: list[float]
    elapsed: float
    errors: int


def measure(plan: Plan) -> Figures:
    """Everything. Ends the process, saying what is missing, where the machine does not allow it."""
    needs.binary("h2load", "apt-get install nghttp2-client")
    figures = Figures()
    with tempfile.TemporaryDirectory() as name, lab(Path(name)) as node:
        ways = _ways(node)
        ours = [ways["two hops"].client, ways["two hops"].server]
        figures.idle += [rss_megabytes(_sidecar(pod)) for pod in ours]
        for way in ways.values():
            load(way, 0.5, BUSY_CONNECTIONS)  # what the first requests set up is not to be measured
        for _ in range(plan.rounds):
            for path, way in ways.items():
                _round(figures, path, way, plan.seconds)
            figures.ready.append(_start(node))
        figures.loaded += [rss_megabytes(_sidecar(pod)) for pod in ours]
        _steady(figures, ways["two hops"], plan.steady_seconds)
    return figures


@dataclass(frozen=True, slots=True)
class Way:
    """From one pod to another."""

    client: Pod
    server: Pod
    sidecars: tuple[int, ...]  # the Envoys on it, by process


def _ways(node: Lab) -> Mapping[str, Way]:
    bare = [node.pod(_client("bare"), inject=False), node.pod(_server("served"), inject=False)]
    ours = [node.pod(_client("client")), node.pod(_server("server"))]
    floor = [_on_the_floor(node, _client("floor-client")), _on_the_floor(node, _server("floor-server"))]
    return {
        "direct": Way(bare[0], bare[1], ()),
        "one hop": Way(ours[0], bare[1], (_sidecar(ours[0]),)),
        "two hops": Way(ours[0], ours[1], (_sidecar(ours[0]), _sidecar(ours[1]))),
        "floor": Way(floor[0], floor[1], (_sidecar(floor[0]), _sidecar(floor[1]))),
    }


def _client(name: str) -> Document:
    return manifest(name, {"name": "app", "image": "registry.example/app:1", "command": ["sleep", "infinity"]})


def _server(name: str) -> Document:
    app = application("", readinessProbe=asks(PORT))
    options = ("--disable-hot-restart", "--log-level", "off", "--concurrency", "1")
    app["command"] = [str(envoy.binary()), "--config-yaml", json.dumps(_APPLICATION), *options]
    return manifest(name, app)


def _on_the_floor(node: Lab, document: Document) -> Pod:
    pod = node.create(document)
    place = pod.folder / "volumes" / "envoy-sidecar-bootstrap"
    mounted.write(place, {file.name: json.dumps(BOOTSTRAP).encode() for file in place.glob("bootstrap-*")})
    pod.kubelet.start()
    pod.kubelet.wait_until_ready()
    return pod


def _sidecar(pod: Pod) -> int:
    return pod.container(SIDECAR).pid


def _start(node: Lab) -> float:
    """Milliseconds from the start of a sidecar until its startup probe passes."""
    pod = node.pod(_client("fresh"))
    at = {what: when for when, container, what in pod.kubelet.events if container == SIDECAR}
    pod.kubelet.kill()
    return (at["up"] - at["started"]) * 1e3


def _round(figures: Figures, path: str, way: Way, seconds: float) -> None:
    one = load(way, seconds, 1)
    figures.p50.setdefault(path, []).append(percentile(one.seconds, 50) * 1e6)
    figures.p99.setdefault(path, []).append(percentile(one.seconds, 99) * 1e6)
    before = sum(map(cpu_seconds, way.sidecars))
    many = load(way, seconds, BUSY_CONNECTIONS)
    figures.rate.setdefault(path, []).append(len(many.seconds) / many.elapsed)
    if way.sidecars:
        spent = (sum(map(cpu_seconds, way.sidecars)) - before) / len(way.sidecars)
        figures.cpu.setdefault(path, []).append(spent / len(many.seconds) * 1e6)


def _steady(figures: Figures, way: Way, seconds: float) -> None:
    """A minute at 80 % of what the two hops can carry: nothing fails."""
    figures.steady_rate = 0.8 * statistics.median(figures.rate["two hops"])
    figures.steady_errors = load(way, seconds, BUSY_CONNECTIONS, figures.steady_rate).errors


def load(way: Way, seconds: float, connections: int, rate: float | None = None) -> Load:
    """Keeps so many connections busy with HTTP/1.1 requests, or sends so many a second over them."""
    log = way.client.folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "--threads=1", f"--clients={connections}", f"--duration={seconds * 1000:.0f}ms"]
    command += [f"--log-file={log}", f"http://{way.server.address['ipv4']}:{PORT}/"]
    if rate is not None:
        command.insert(1, f"--rps={max(1, round(rate / connections))}")
    began = time.monotonic()
    way.client.net.run(*command)
    elapsed = time.monotonic() - began
    lines = [line.split() for line in log.read_text().splitlines()]
    errors = sum(status != "200" for _, status, _ in lines)
    return Load([int(micros) / 1e6 for _, _, micros in lines], min(elapsed, seconds), errors)


def rows(figures: Figures) -> Iterator[Row]:
    """The table; ours and the floor side by side."""

    def row(what: str, path: str, of: Mapping[str, list[float]], floor: bool = False) -> Row:
        return Row(what, path, of[path], of["floor"] if floor else ())

    for path in PATHS[:3]:
        yield row("p50 of one connection, µs", path, figures.p50, floor=path == "two hops")
    added = [two - none for two, none in zip(figures.p50["two hops"], figures.p50["direct"], strict=True)]
    yield Row("  what two hops add to it", "two hops", added, (), 150, 150)
    over = [ours / floor for ours, floor in zip(figures.p50["two hops"], figures.p50["floor"], strict=True)]
    yield Row("  as a multiple of the floor's", "two hops", over, (), 1.15, 1.15)
    for path in PATHS[:3]:
        yield row("p99 of one connection, µs", path, figures.p99, floor=path == "two hops")
    for path in PATHS[:3]:
        yield row(f"requests a second, {BUSY_CONNECTIONS} connections", path, figures.rate, floor=path == "two hops")
    for path in PATHS[1:3]:
        yield row("CPU per request in a sidecar, µs", path, figures.cpu, floor=path == "two hops")
    yield Row("memory of a sidecar when idle, MiB", "", figures.idle, (), 70, 70)
    yield Row("memory of a sidecar after all of this, MiB", "", figures.loaded)
    yield Row("a sidecar is ready after, ms", "", figures.ready, (), 150, 150)
    steady = f"errors at {figures.steady_rate:.0f} requests a second"
    yield Row(steady, "two hops", [figures.steady_errors], (), 0, 0)
