"""The cluster as a source: each kind listed, then watched, and listed anew whenever the watch has lost its place.

An API server that is gone is asked again, later and later, and changes nothing that was known.
"""

import random
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from controlplane.kube import Collection, Event, Kube, KubeError
from controlplane.xds.feed import Feed
from controlplane.xds.world import WHAT, What

MAX_BACKOFF_SECONDS = 30.0
# No Namespaces, for nothing that a proxy is told depends on one: a Service is called in the same way whether or not its
# namespace is opted in. Where bootstraps go depends on them, and `serving` watches them for that.
COLLECTIONS: Mapping[What, Collection] = MappingProxyType(
    {
        "Service": Collection("/api/v1/services"),
        # Headless Services are reached at the address that is dialled, whatever their endpoints.
        "EndpointSlice": Collection(
            "/apis/discovery.k8s.io/v1/endpointslices", "kubernetes.io/service-name,!service.kubernetes.io/headless"
        ),
        "Pod": Collection("/api/v1/pods", "envoy-sidecar.io/injected=true", metadata=True),
        "Node": Collection("/api/v1/nodes", metadata=True),
    }
)


class Watch:
    """Tells `feed` until `stop`. `on_failure` hears of every failure: the kind, and the error."""

    def __init__(self, kube: Kube, feed: Feed, on_failure: Callable[[What, KubeError], None]) -> None:
        self._kube, self._feed, self._on_failure = kube, feed, on_failure
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begins, in threads of its own."""
        for what in WHAT:
            threading.Thread(target=self._follow, args=(what,), name=f"watch {what}", daemon=True).start()

    def stop(self) -> None:
        """Ends them at the next event."""
        self._stopping.set()

    def _follow(self, what: What) -> None:
        version, failures = "", 0
        while not self._stopping.is_set():
            try:
                if not version:
                    objects, version = self._kube.whole(COLLECTIONS[what])
                    self._feed.listed(what, objects)
                for event in self._kube.events(COLLECTIONS[what], version):
                    version, failures = event.version, 0
                    self._tell(what, event)
                    if self._stopping.is_set():
                        return
                self._feed.heard(what)  # it ended by itself
            except KubeError as error:
                self._on_failure(what, error)
                if error.reason == "gone":
                    version = ""
                failures += 1
                self._stopping.wait(backoff(failures, random.random()))  # noqa: S311  no secret

    def _tell(self, what: What, event: Event) -> None:
        match event.type:
            case "BOOKMARK":
                self._feed.heard(what)
            case "DELETED":
                self._feed.remove(what, event.object)
            case _:
                self._feed.put(what, event.object)


def backoff(failures: int, chance: float) -> float:
    """Seconds: about twice as many each time, less up to half of it, so that replicas do not ask all at once."""
    return min(MAX_BACKOFF_SECONDS, 0.25 * 2.0 ** min(failures, 16)) * (1 - chance / 2)
