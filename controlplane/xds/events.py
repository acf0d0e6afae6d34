"""What is wrong with an object, as Kubernetes' Events: where its author looks, `kubectl describe service`.

The API server keeps an Event for an hour, so it is written anew while the problem lasts. When that is, the problem
itself says: all replicas write the same, and not everything at the same time.
"""

import hashlib
import zlib
from datetime import UTC, datetime

from controlplane.extensions import Json
from controlplane.xds.mesh import Problem

COMPONENT = "envoy-sidecar-controlplane"
REASON = "Ignored"
MAX_MESSAGE = 1024  # characters; the API server takes no more
PERIOD_SECONDS = 3000  # less than the hour
_API_VERSIONS = {"EndpointSlice": "discovery.k8s.io/v1"}  # of all others: v1


def period(problem: Problem, now: datetime) -> int:
    """Which Event of that problem it is time for: one after another, as long as it lasts."""
    start = zlib.crc32(f"{problem.about} {problem.message}".encode()) % PERIOD_SECONDS
    return int(now.timestamp() + start) // PERIOD_SECONDS


def event(problem: Problem, now: datetime) -> Json:
    """Its name says the problem and the period: that it was written by another replica is no conflict."""
    kind, _, name = problem.about.partition(" ")
    namespace, _, name = name.partition("/")
    content = f"{problem.about} {problem.uid} {problem.message} {period(problem, now)}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:200].rstrip('-.')}.{digest}", "namespace": namespace},
        "involvedObject": {  # kubectl finds it by the uid as well
            "apiVersion": _API_VERSIONS.get(kind, "v1"),
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "uid": problem.uid,
        },
        "type": "Warning",
        "reason": REASON,
        "message": problem.message[:MAX_MESSAGE],
        "source": {"component": COMPONENT},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
