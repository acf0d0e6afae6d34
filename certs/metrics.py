"""What the process says of itself to Prometheus. Names start with `envoy_sidecar_certs_`; labels are closed sets."""

import platform
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from certs import __version__, chain
from certs.objects import Kind
from certs.state import Observed, covers
from certs.steps import Verb

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which no one reads

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "envoy_sidecar_certs"
_TRUSTS: dict[Kind, Literal["mutating", "validating", "config_maps"]] = {
    "MutatingWebhookConfiguration": "mutating",
    "ValidatingWebhookConfiguration": "validating",
    "ConfigMap": "config_maps",
}


class Metrics:
    """One process's metrics, in a registry of their own. `reasons`: why something can fail."""

    def __init__(self, reasons: Iterable[str]) -> None:
        registry = self._registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._not_after = gauge("not_after_timestamp_seconds", "When a certificate ends.", "kind", "name")
        self._matches = gauge("trust_matches", "1 if what is published vouches for what is served.", "target")
        self.last_success = gauge("last_success_timestamp_seconds", "When all was seen to be well, or made so.")
        self._steps = counter("steps", "What was done.", "step")
        self._failures = counter("failures", "What could not be done, and why.", "reason")
        self.conflicts = counter("conflicts", "Writes that another replica was faster with.")
        for step in get_args(Verb):
            self._steps.labels(step)
        for reason in reasons:
            self._failures.labels(reason)
        build = {"version": __version__, "python": platform.python_version()}
        Info(f"{PREFIX}_build", "What is running.", registry=registry).info(build)
        ProcessCollector(registry=registry)

    def did(self, step: Verb) -> None:
        """One more step of that kind was done."""
        self._steps.labels(step).inc()

    def failed(self, reason: str) -> None:
        """Something could not be done, for one of the `reasons`."""
        self._failures.labels(reason).inc()

    def show(self, observed: Observed, now: datetime, secret: str) -> None:
        """Sets the gauges to what was observed; `secret` is the name of the CA's."""
        bundles = [("ca", secret, observed.authority.signing), ("ca", f"{secret}/next", observed.authority.next)]
        bundles += [("leaf", leaf.target.name, leaf.bundle) for leaf in observed.leaves]
        for gauge in (self._not_after, self._matches):
            gauge.clear()
        for kind, name, bundle in bundles:
            if bundle:
                end = chain.facts(bundle.certificate).validity.not_after
                self._not_after.labels(kind, name).set(end.timestamp())
        for kind_, target in _TRUSTS.items():
            trusts = [trust for trust in observed.trusts if trust.target.kind == kind_]
            if trusts:  # a configuration that is not installed matches nothing and lacks nothing
                self._matches.labels(target).set(all(covers(trust, observed.leaves, now) for trust in trusts))

    def page(self) -> bytes:
        """The page that Prometheus reads, of type CONTENT_TYPE."""
        return generate_latest(self._registry)
