"""What the API server itself measured of a webhook: `apiserver_admission_webhook_admission_duration_seconds`."""

from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver.cluster import Cluster

MEASURED = "measured against the real API server"  # the property under which a test records a line
METRIC = "apiserver_admission_webhook_admission_duration_seconds"


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram: calls at most so long, by upper bound in seconds."""

    at_most: Counter[float]

    def __sub__(self, earlier: "Durations") -> "Durations":
        return Durations(Counter({bound: count - earlier.at_most[bound] for bound, count in self.at_most.items()}))

    @property
    def calls(self) -> int:
        return self.at_most[float("inf")]

    def quantile(self, share: float) -> float:
        """Seconds, interpolated inside a bucket as Prometheus' histogram_quantile does."""
        rank, below, lower = share * self.calls, 0, 0.0
        for bound in sorted(self.at_most):
            count = self.at_most[bound]
            if count >= rank:
                width = 0 if bound == float("inf") else bound - lower
                return lower + width * (rank - below) / max(count - below, 1)
            below, lower = count, bound
        return lower


def durations(cluster: Cluster, webhook: str) -> Durations:
    """Of every admitting call of a webhook so far."""
    page = cluster.kubectl("get", "--raw", "/metrics").stdout
    lines = (line for line in page.splitlines(keepends=True) if METRIC in line)
    counts: Counter[float] = Counter()
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            if sample.name == f"{METRIC}_bucket" and sample.labels["name"] == webhook:
                counts[float(sample.labels["le"])] += int(sample.value)
    return Durations(counts)
