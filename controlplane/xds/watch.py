"""The cluster as a source: each kind listed, then watched, and listed anew whenever the watch has lost its place.

An API server that is gone, or ends what it has just begun, is asked again, later and later, and changes nothing that
was known. Each kind is also listed anew now and then, without a reason: what a watch missed is right after that.
"""

import random
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import MappingProxyType

from controlplane.apiserver import KubeError
from controlplane.backoff import Backoff
from controlplane.kube import Collection, Event, Kube
from controlplane.xds.feed import Feed
from controlplane.xds.reading import ANOTHERS, OWNER
from controlplane.xds.world import WHAT, What

BACKOFF_SECONDS = 0.5, 30.0  # at first, and at most
QUICK_SECONDS = 1.0  # a watch that ends sooner than that is not asked for again at once
RESYNC_SECONDS = 600.0  # less up to a quarter, by chance: not all kinds at once, nor all replicas
# No Namespaces, for nothing that a proxy is told depends on one: a Service is called in the same way whether or not its
# namespace is opted in. Where bootstraps go depends on them, and `rounds` watches them for that.
COLLECTIONS: Mapping[What, Collection] = MappingProxyType(
    {
        "Service": Collection("/api/v1/services", f"!{ANOTHERS}"),
        # Headless Services are reached at the address that is dialled, whatever their endpoints.
        "EndpointSlice": Collection(
            "/apis/discovery.k8s.io/v1/endpointslices", f"{OWNER},!service.kubernetes.io/headless,!{ANOTHERS}"
        ),
        "Pod": Collection("/api/v1/pods", "envoy-sidecar.io/injected=true", metadata=True),
        "Node": Collection("/api/v1/nodes", metadata=True),
    }
)


class Watch:
    """Tells `feed` until `stop`. `on_failure` hears of every failure, while it is handled: the kind, and a KubeError,
    or whatever else a bug of ours raises.
    """

    def __init__(
        self,
        kube: Kube,
        feed: Feed,
        on_failure: Callable[[What, Exception], None],
        resync_seconds: float = RESYNC_SECONDS,
    ) -> None:
        self._stopping = threading.Event()
        follow = [_Follower(what, kube, feed, on_failure, resync_seconds, self._stopping) for what in WHAT]
        self._threads = [
            threading.Thread(target=one.run, name=f"watch {what}", daemon=True)
            for what, one in zip(WHAT, follow, strict=True)
        ]

    def start(self) -> None:
        """Begins, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them at the next event."""
        self._stopping.set()

    @property
    def healthy(self) -> bool:
        """Whether all kinds are still asked for, successfully or not."""
        return self._stopping.is_set() or all(one.ident is None or one.is_alive() for one in self._threads)


class _Follower:
    """Of one kind."""

    def __init__(
        self,
        what: What,
        kube: Kube,
        feed: Feed,
        on_failure: Callable[[What, Exception], None],
        resync_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._what, self._kube, self._feed, self._on_failure = what, kube, feed, on_failure
        self._resync_seconds, self._stopping = resync_seconds, stopping
        self._backoff = Backoff(*BACKOFF_SECONDS)
        self._version = ""  # that is known; empty: all is to be listed
        self._until = 0.0  # it is listed anew anyway

    def run(self) -> None:
        """Until it is to stop."""
        while not self._stopping.is_set():
            try:
                if not self._version or self._until <= monotonic() or self._what in self._feed.wanted:
                    self._list()
                self._watch()
            except Exception as error:  # also a bug of ours: nobody else would tell of this kind
                self._on_failure(self._what, error)
                if not isinstance(error, KubeError) or error.reason == "gone":
                    self._version = ""
                self._stopping.wait(self._backoff.failed())

    def _list(self) -> None:
        objects, self._version = self._kube.whole(COLLECTIONS[self._what])
        self._feed.listed(self._what, objects)
        self._until = monotonic() + self._resync_seconds * random.uniform(0.75, 1)  # noqa: S311  no secret

    def _watch(self) -> None:
        """Until it ends, which it does after a while."""
        begun, told = monotonic(), False
        for event in self._kube.events(COLLECTIONS[self._what], self._version):
            self._tell(event)
            self._version, told = event.version, True
            self._backoff.worked()
            if self._stopping.is_set() or self._what in self._feed.wanted:
                return
        if monotonic() - begun < QUICK_SECONDS:
            raise KubeError("short", f"watch of {self._what}: it ended at once")
        self._backoff.worked()
        if not told and self._is_ahead():
            self._version = ""
        self._feed.heard(self._what)

    def _is_ahead(self) -> bool:
        """Whether the store is not as far as what we know of it: it was restored from a backup, and has nothing to say
        before it has come so far again. A watch tells that by silence.
        """
        newest = self._kube.newest(COLLECTIONS[self._what])
        return newest.isdecimal() and self._version.isdecimal() and int(newest) < int(self._version)

    def _tell(self, event: Event) -> None:
        match event.type:
            case "BOOKMARK":
                self._feed.heard(self._what)
            case "DELETED":
                self._feed.remove(self._what, event.object)
            case _:
                self._feed.put(self._what, event.object)
