"""What is wrong with a Service, as Kubernetes' Events: where its author looks, `kubectl describe service`."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from controlplane.extensions import Json
from controlplane.xds.mesh import Problem

COMPONENT = "envoy-sidecar-controlplane"
REASON = "Ignored"
MAX_MESSAGE = 1024  # characters; the API server takes no more


def events(problems: Iterable[Problem], now: datetime) -> Iterator[Json]:
    """One each. Its name says the problem and the hour: all replicas write the same, and again while it lasts."""
    hour = f"{now.astimezone(UTC):%Y%m%d%H}"
    for problem in problems:
        kind, _, name = problem.about.partition(" ")
        namespace, _, name = name.partition("/")
        digest = hashlib.sha256(f"{problem.about} {problem.message} {hour}".encode()).hexdigest()[:16]
        time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name[:200].rstrip('-.')}.{digest}", "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": kind, "namespace": namespace, "name": name},
            "type": "Warning",
            "reason": REASON,
            "message": problem.message[:MAX_MESSAGE],
            "source": {"component": COMPONENT},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
