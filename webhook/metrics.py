"""What the process counts about itself, for Prometheus. Names start with `envoy_sidecar_webhook_`.

Children are looked up once, not for every admission: that leaves 3 µs of each for counting.
"""

import platform
from functools import cache
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from webhook import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which no one reads

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "envoy_sidecar_webhook"
HandshakeFailure = Literal["timeout", "refused", "gone", "crowded_out"]
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self, settings_hash: str) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._admissions = counter("admissions", "Requests answered, and why so.", "endpoint", "decision", "reason")
        self._durations = Histogram(
            f"{PREFIX}_admission_duration_seconds",
            "From the head of a request to its answer.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(f"{PREFIX}_admissions_in_flight", "Requests being answered.", registry=registry)
        self.connections_cut = counter("connections_cut", "Connections ended by us: slow, or headers too large.")
        self.connections_crowded_out = counter("connections_crowded_out", "Idle connections ended to make room.")
        self.connections = Gauge(f"{PREFIX}_connections", "Open to the port of admissions.", registry=registry)
        failures = counter("handshake_failures", "TLS handshakes that came to nothing, and why.", "reason")
        self._handshakes = {reason: failures.labels(reason) for reason in get_args(HandshakeFailure)}
        self.log_lines_dropped = counter("log_lines_dropped", "Log lines that found no room: nobody reads our output.")
        reloads = counter("certificate_reloads", "Attempts to serve a changed certificate.", "result")
        self.certificate_reloaded, self.certificate_refused = reloads.labels("success"), reloads.labels("failure")
        self.certificate_current = Gauge(
            f"{PREFIX}_certificate_last_reload_successful",
            "0 while the files hold what cannot be served, and the former pair still is.",
            registry=registry,
        )
        self.certificate_current.set(1)
        self.certificate_expiry = Gauge(
            f"{PREFIX}_certificate_expiry_timestamp_seconds", "When the served certificate ends.", registry=registry
        )
        Info(f"{PREFIX}_settings", "The settings in effect.", registry=registry).info({"hash": settings_hash})
        build = {"version": __version__, "python": platform.python_version()}
        Info(f"{PREFIX}_build", "What is running.", registry=registry).info(build)
        ProcessCollector(registry=registry)
        self._counting = cache(self._admissions.labels)
        self._timing = cache(self._durations.labels)

    def handshake_failed(self, reason: HandshakeFailure) -> None:
        """Counts one handshake that came to nothing."""
        self._handshakes[reason].inc()

    def observe(self, endpoint: str, decision: str, reason: str, seconds: float) -> None:
        """Counts one answered request. All three words come from closed sets: they are labels."""
        self._counting(endpoint, decision, reason).inc()
        self._timing(endpoint).observe(seconds)

    def page(self) -> bytes:
        """The page that Prometheus reads, of type CONTENT_TYPE."""
        return generate_latest(self._registry)
