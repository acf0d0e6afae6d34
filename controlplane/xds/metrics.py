"""What the xDS server counts, for Prometheus. Names start with `envoy_sidecar_controlplane_xds_`; label values are of
closed sets: no name of a pod or of a resource is one.
"""

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controlplane.xds.identity import REASONS
from controlplane.xds.snapshot import Kind

PREFIX = "envoy_sidecar_controlplane_xds"
End = Literal["closed", "too_many_names", "name_too_long", "malformed", "silent", "replaced", "stopping", "internal"]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One server's, in the registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}_seconds", text, labels, buckets=_SECONDS, registry=registry)

        self.streams = gauge("streams", "Proxies that are connected.")
        self.ends = counter("stream_ends", "Streams that ended, and why.", "reason")
        self.refusals = counter("refusals", "Callers that were not let in, and why.", "reason")
        self.snapshots = counter("snapshots", "Worlds that were taken over.")
        self.failures = counter("snapshot_failures", "Worlds that could not be: the last good one stays.")
        self.snapshot_time = gauge("snapshot_timestamp_seconds", "When a world was taken over for the last time.")
        self.changes = counter("changes", "Resources that differed from one world to the next, if anyone had them.")
        self.push_seconds = seconds("push", "From a world that differs to the response that says so, per stream.")
        self.rejected = gauge("rejected_resources", "What proxies do not take at this moment, by type.", "type")
        self.certificate_current = gauge("certificate_last_reload_successful", "0 while the files cannot be served.")
        self.certificate_expiry = gauge("certificate_expiry_timestamp_seconds", "When the served certificate ends.")
        self.slowed = counter("waits", "Of a pod that asks for more than it may, before its next request is read.")
        requests = counter("requests", "Of proxies, by type.", "type")
        responses = counter("responses", "To proxies, by type.", "type")
        sent = counter("sent_bytes", "In responses, by type.", "type")
        nacks = counter("nacks", "Responses that a proxy rejected, by type.", "type")
        stale = counter("stale_answers", "Answers to what was not waiting for one, by type.", "type")
        unanswered = counter("unanswered", "Responses without an answer when there was more to say, by type.", "type")
        accepted = seconds("accept", "From a response to its acceptance: with clusters, until they are warm.", "type")
        # Children are looked up once, not for every message.
        self.requests = {kind: requests.labels(kind.name.lower()) for kind in Kind} | {None: requests.labels("other")}
        self.responses = {kind: responses.labels(kind.name.lower()) for kind in Kind}
        self.sent_bytes = {kind: sent.labels(kind.name.lower()) for kind in Kind}
        self.nacks = {kind: nacks.labels(kind.name.lower()) for kind in Kind}
        self.unanswered = {kind: unanswered.labels(kind.name.lower()) for kind in Kind}
        self.stale = {kind: stale.labels(kind.name.lower()) for kind in Kind}
        self.accept_seconds = {kind: accepted.labels(kind.name.lower()) for kind in Kind}
        for kind in Kind:
            self.rejected.labels(kind.name.lower())
        for reason in REASONS:
            self.refusals.labels(reason)
        for end in get_args(End):
            self.ends.labels(end)
