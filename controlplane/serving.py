"""The process: does what `publication` plans, now and whenever a namespace opts in or out; metrics and health.

Two replicas do the same work beside each other and need no leader: every step may be done twice. An API server that
is gone is asked again, later and later; nothing that runs depends on an answer.
"""

import json
import logging
import random
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from time import monotonic
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from controlplane import kube
from controlplane.kube import KubeError
from controlplane.publication import Publish, Step, plan
from controlplane.publisher import OPT_IN, Publisher

BREATH_SECONDS = 1.0  # between two rounds, however much happens
MAX_BACKOFF_SECONDS = 60.0
DOUBT_SECONDS = 600.0  # after which all is published anew
STUCK_SECONDS = 300.0  # without a round, after which the process is better restarted
MAX_ROUNDS = 50  # plans until nothing is left to do; an upgrade takes five

_LOG = logging.getLogger("controlplane")


class Metrics:
    """What the process counts about itself, for Prometheus. Names start with `envoy_sidecar_controlplane_`."""

    def __init__(self, current: str) -> None:
        """`current` is the hash of this replica's own bootstrap."""
        registry = self.registry = CollectorRegistry()
        prefix = "envoy_sidecar_controlplane"
        self.steps = Counter(f"{prefix}_publication_steps", "Done, by kind.", ["step"], registry=registry)
        self.failures = Counter(
            f"{prefix}_publication_failures", "Rounds that ended early, by reason.", ["reason"], registry=registry
        )
        self.refusals = Counter(
            f"{prefix}_publication_refusals", "Namespaces that refused their bootstrap.", registry=registry
        )
        self.bootstraps = Gauge(f"{prefix}_bootstraps", "Contents that are kept.", registry=registry)
        self.namespaces = Gauge(f"{prefix}_namespaces", "Namespaces that are opted in.", registry=registry)
        self.last_success = Gauge(
            f"{prefix}_publication_last_success_timestamp_seconds",
            "When everything was published for the last time.",
            registry=registry,
        )
        Info(f"{prefix}_bootstrap", "The content of this replica.", registry=registry).info({"hash": current})
        ProcessCollector(registry=registry)

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class Service:
    """One replica. `run` returns after `stop`, which any thread may call, and a signal handler."""

    def __init__(self, publisher: Publisher, retention: timedelta, period: float, metrics: Metrics) -> None:
        self._publisher, self._retention, self._period, self._metrics = publisher, retention, period, metrics
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._doubted = self._alive = monotonic()
        self._published = False
        publisher.on_refusal = self._refused

    def run(self) -> None:
        """Publishes until it is told to stop."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            failures = 0 if self._round() else failures + 1
            self._alive = monotonic()
            self._stopping.wait(BREATH_SECONDS)
            if failures:
                self._stopping.wait(_backoff(failures))
            else:
                self._wake.wait(self._period)

    def stop(self) -> None:
        """Lets `run` return after the step that it is doing."""
        self._stopping.set()
        self._wake.set()

    @property
    def healthy(self) -> bool:
        """Whether rounds are still being made, successful or not."""
        return monotonic() - self._alive < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        """Whether everything has been published once."""
        return self._published and not self._stopping.is_set()

    def _round(self) -> bool:
        """Whether all that was to be done is done."""
        if monotonic() - self._doubted > DOUBT_SECONDS:
            self._publisher.doubt()
            self._doubted = monotonic()
        try:
            self._settle()
        except KubeError as error:
            self._metrics.failures.labels(error.reason).inc()
            _tell(logging.WARNING, "publication failed", reason=error.reason, problem=str(error))
            return False
        except Exception:  # a bug of ours ends a round, not the process: the next may find another world
            self._metrics.failures.labels("internal").inc()
            _LOG.exception('{"level": "error", "event": "crash"}')
            return False
        self._published = True
        self._metrics.last_success.set(datetime.now(UTC).timestamp())
        return True

    def _settle(self) -> None:
        for _ in range(MAX_ROUNDS):
            now = datetime.now(UTC)
            observed = self._publisher.observe()
            self._metrics.bootstraps.set(len(observed.archive))
            self._metrics.namespaces.set(len(observed.opted_in))
            steps = plan(observed, self._publisher.current, self._retention, now)
            for step in steps:
                if self._stopping.is_set():
                    return
                self._act(step, now)
            if not steps:
                return

    def _act(self, step: Step, now: datetime) -> None:
        try:
            self._publisher.act(step, now)
        except KubeError as error:
            if error.reason != "conflict":  # another replica was faster: plan again
                raise
            return
        kind = type(step).__name__.lower()
        self._metrics.steps.labels(kind).inc()
        self._alive = monotonic()
        _tell(logging.INFO, kind, **{name: str(getattr(step, name)) for name in step.__slots__ if name != "record"})

    def _refused(self, step: Step, error: KubeError) -> None:
        if isinstance(step, Publish):
            self._metrics.refusals.inc()
            _tell(logging.ERROR, "namespace refuses its bootstrap", namespace=step.namespace, problem=str(error))

    def _watch(self) -> None:
        """Wakes the rounds when a namespace opts in or out."""
        failures = 0
        while not self._stopping.is_set():
            try:
                for _ in self._publisher.kube.watch(kube.NAMESPACES, OPT_IN):
                    failures = 0
                    self._wake.set()
            except KubeError as error:
                failures += 1
                _tell(logging.WARNING, "watch failed", reason=error.reason, problem=str(error))
                self._stopping.wait(_backoff(failures))


def _backoff(failures: int) -> float:
    """Seconds; twice as many each time, less a chance part, so that replicas do not ask at the same moment."""
    return float(min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 16)) * random.uniform(0.5, 1))  # noqa: S311  no secret


def _tell(level: int, event: str, **facts: str) -> None:
    _LOG.log(level, "%s", json.dumps({"level": logging.getLevelName(level).lower(), "event": event, **facts}))


def tell(event: str, **facts: str) -> None:
    """A line of the log."""
    _tell(logging.INFO, event, **facts)


def log_to_stderr() -> None:
    """One JSON object per line, with its time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What a line says: those of ours are JSON already; the server's have their facts beside the event."""
    more = getattr(record, "facts", None)
    if more is None:
        found: dict[str, object] = json.loads(record.getMessage())
        return found
    return {"level": record.levelname.lower(), "event": record.getMessage(), **more}


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, **facts})


class Health(Protocol):
    """What probes ask of a part of the process."""

    @property
    def healthy(self) -> bool:
        """Whether it still works, whether or not it succeeds."""

    @property
    def ready(self) -> bool:
        """Whether it does what it is for."""


Page = tuple[int, bytes, str]  # status, body, content type
Debug = Callable[[str, str], Page | None]  # a method and a path below /debug/; None: no such page


def monitoring(
    address: str,
    port: int,
    parts: Sequence[Health],
    metrics: Metrics,
    debug: Debug = lambda _method, _path: None,
    names: Callable[[], bytes] = bytes,
) -> ThreadingHTTPServer:
    """The server of /metrics, /healthz and /readyz, listening, to be served in a thread. Raises OSError.

    `names` has which address is whose, on a page of its own: it may hold thousands of series, and seldom changes.
    What `debug` has is for callers on loopback only: whoever may exec into the pod, or forward a port.
    """

    def ok(good: bool) -> Page:
        return (200, b"ok", "text/plain") if good else (503, b"not now", "text/plain")

    pages: dict[str, Callable[[], Page]] = {
        "/metrics": lambda: (200, metrics.page(), CONTENT_TYPE_PLAIN_0_0_4),
        "/metrics/services": lambda: (200, names(), CONTENT_TYPE_PLAIN_0_0_4),
        "/healthz": lambda: ok(all(part.healthy for part in parts)),
        "/readyz": lambda: ok(all(part.ready for part in parts)),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            page = pages.get(self.path)
            self._answer(page() if page else self._debug("GET"))

        def do_POST(self) -> None:
            self._answer(self._debug("POST"))

        def _debug(self, method: str) -> Page:
            found = debug(method, self.path) if _is_loopback(self.client_address[0]) else None
            return found or (404, b"no such page", "text/plain")

        def _answer(self, page: Page) -> None:
            status, body, content_type = page
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads who asked."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    return Server((address, port), Handler)


def _is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
