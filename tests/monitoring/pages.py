"""The names of the metrics of our processes, by the pages that Prometheus reads."""

import re

from prometheus_client import CollectorRegistry, generate_latest

from certs.metrics import Metrics as CertsMetrics
from certs.service import FAILURES
from controlplane.proxies import Counts
from controlplane.rounds import Metrics as RoundsMetrics
from controlplane.xds import destinations
from controlplane.xds.mesh import Mesh
from controlplane.xds.metrics import Metrics as XdsMetrics
from webhook.metrics import Metrics as WebhookMetrics


def metrics() -> set[str]:
    """Every metric and every series of ours, whether it has a value yet or not."""
    webhook = WebhookMetrics("0123456789")
    webhook.observe("inject", "injected", "added", 0.001)
    controlplane = CollectorRegistry()
    RoundsMetrics("0123456789", controlplane)
    XdsMetrics(controlplane)
    Counts(controlplane)
    pages = [webhook.page(), CertsMetrics(FAILURES).page(), generate_latest(controlplane), destinations.page(Mesh())]
    return set(re.findall(r"^(?:# TYPE )?(envoy_sidecar_\w+)", b"\n".join(pages).decode(), re.MULTILINE))


def series(page: str) -> set[str]:
    """The names of the series on a page."""
    return set(re.findall(r"^([a-z]\w*)(?=[{ ])", page, re.MULTILINE))
