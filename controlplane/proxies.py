"""What proxies are told, as a part of the process: a source of objects, the feed, and the server of discovery.

A source is the API server, or manifests on disk, of whose pods nobody can say that a token is false.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from controlplane.apiserver import KubeError
from controlplane.extensions import Json
from controlplane.kube import Kube
from controlplane.logs import tell, tell_crash
from controlplane.ports import PORTS
from controlplane.reporter import Reporter
from controlplane.xds import destinations, explain
from controlplane.xds.disk import Disk
from controlplane.xds.feed import Feed
from controlplane.xds.mesh import Mesh
from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.service import Discovery, Place
from controlplane.xds.translate import Choices
from controlplane.xds.watch import Watch
from controlplane.xds.world import WHAT, What
from controlplane.xds.worlds import Worlds

LOOPBACK = f"127.0.0.1:{PORTS.xds}"
EVERYWHERE = f"[::]:{PORTS.xds}"


class Counts:
    """What is counted of sources and of the feed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        self.failures = Counter(
            f"{PREFIX}_watch_failures", "Lists and watches that failed, by kind.", ["kind", "reason"], registry=registry
        )
        self.problems = gauge("problems", "What is wrong with objects: see their Events.")
        self.invalid = gauge("invalid_resources", "What Envoy's rules forbid: the last good ones are told instead.")
        self.held_back = gauge("removal_held_back", "1 while an operator's word is waited for.")
        self.refusals = Counter(
            f"{PREFIX}_removals_refused", "How often more than half would have gone at once.", registry=registry
        )
        self._silence = gauge("watch_silence_seconds", "Since a kind was heard of, if only that it is quiet.", "kind")

    def follow(self, feed: Feed) -> None:
        """Asks that feed from now on."""
        self.held_back.set_function(lambda: bool(feed.holding))
        for what in WHAT:
            self._silence.labels(what.lower()).set_function(partial(_silence, feed, what))


def _silence(feed: Feed, what: What) -> float:
    return feed.silence().get(what, float("nan"))


class Source(Protocol):
    """Tells the feed what there is."""

    def start(self) -> None:
        """Begins, in threads of its own."""

    def stop(self) -> None:
        """Ends them."""

    @property
    def healthy(self) -> bool:
        """Whether they are alive, if they are to be."""


class Proxies:
    """The part. `start` it; any thread may call the rest."""

    def __init__(
        self,
        place: Place,
        choices: Choices,
        registry: CollectorRegistry,
        source: Callable[["Proxies"], Source],
        reporter: Reporter,
    ) -> None:
        self._metrics = Metrics(registry)
        self._discovery = Discovery(place, self._metrics)
        self._worlds, self._reporter = Worlds(self._discovery.publish, choices), reporter
        self.feed = Feed(self._take, on_failure=self._crashed)
        self._holding, self._refusals = "", 0  # the feed's, as they were told and counted last
        self._looked_at = Mesh()  # for problems and names
        self._names: tuple[Mesh, bytes] | None = None
        self._counts = Counts(registry)
        self._counts.follow(self.feed)
        self._counts.invalid.set_function(lambda: len(self._worlds.rejected))
        self._source = source(self)

    def start(self) -> None:
        """Takes the port, and begins. Raises OSError, ValueError, and CredentialsError."""
        self._discovery.start()
        threading.Thread(target=self.feed.run, name="feed", daemon=True).start()
        self._source.start()

    def stop(self, seconds: float) -> None:
        """Ends streams within that time, bit by bit, so that not all come to one other replica; then all else."""
        self._source.stop()
        self.feed.stop()
        self._discovery.stop(seconds)

    @property
    def port(self) -> int:
        """Where proxies are served."""
        return self._discovery.port

    @property
    def healthy(self) -> bool:
        """Whether the server's loop still turns, and every thread that it depends on lives."""
        return all(part.healthy for part in (self._discovery, self.feed, self._source, self._reporter))

    @property
    def ready(self) -> bool:
        """Whether proxies are served; not before all there is was listed."""
        return self._discovery.ready

    def names(self) -> bytes:
        """Which Service has which address, as a page for Prometheus."""
        mesh = self._looked_at
        if self._names is None or self._names[0] is not mesh:
            self._names = mesh, destinations.page(mesh)
        return self._names[1]

    def debug(self, method: str, path: str) -> tuple[int, bytes, str] | None:
        """`POST /debug/release` is the operator's word; what GET shows is for people."""
        if (method, path) == ("POST", "/debug/release"):
            held = self.feed.holding
            self.feed.release()
            return 200, f"{'released: ' + held if held else 'nothing is held back'}\n".encode(), "text/plain"
        found = self._discovery.debug(path) if method == "GET" else None
        return None if found is None else (200, found.encode(), "application/json")

    def failed(self, what: What, error: Exception) -> None:
        """A list or a watch failed; it is begun again."""
        if not isinstance(error, KubeError):
            self._counts.failures.labels(what.lower(), "internal").inc()
            tell_crash("watch failed", kind=what, reason="internal")
            return
        self._counts.failures.labels(what.lower(), error.reason).inc()
        tell("watch failed", logging.WARNING, kind=what, reason=error.reason, problem=str(error)[:300])

    def unreadable(self, error: Exception) -> None:
        """A file cannot be read; what was known stays, also of other files."""
        tell("manifests not read", logging.WARNING, problem=str(error)[:300], meanwhile="nothing changes for proxies")

    def _crashed(self, bug: Exception) -> None:
        """A change could not be taken over: all is listed anew, and tried again."""
        self._metrics.failures.inc()
        tell_crash("world not taken over", problem=repr(bug)[:300])

    def _take(self, mesh: Mesh) -> None:
        former, self._holding = self._holding, self.feed.holding
        if self._holding and not former:  # how much, may be another number by every turn
            release = {"if meant": "POST /debug/release, see docs/traffic.md"}
            tell("removal held back", logging.ERROR, missing=self._holding, **release)
        new, self._refusals = self.feed.refusals - self._refusals, self.feed.refusals
        self._counts.refusals.inc(new)
        self._worlds.take(mesh)
        # Endpoints, which change most, have none of their own.
        if mesh.services is not self._looked_at.services or mesh.problems is not self._looked_at.problems:
            self._looked_at = mesh
            self._counts.problems.set(len(explain.problems(mesh)))
            self._reporter.look(mesh)


def of_cluster(kube: Kube, place: Place, choices: Choices, registry: CollectorRegistry) -> Proxies:
    """For the proxies of a cluster."""
    return Proxies(place, choices, registry, lambda part: Watch(kube, part.feed, part.failed), Reporter(kube.report))


def of_disk(manifests: Path, place: Place, choices: Choices, registry: CollectorRegistry) -> Proxies:
    """For demonstrations and tests."""
    return Proxies(place, choices, registry, lambda part: Disk(manifests, part.feed, part.unreadable), Reporter(_said))


def _said(event: Json) -> None:
    """There is no API server that would keep it."""
    of = event["involvedObject"]
    about = f"{of['kind']} {of['namespace']}/{of['name']}"
    tell("ignored", logging.WARNING, about=about, problem=event["message"][:300])
