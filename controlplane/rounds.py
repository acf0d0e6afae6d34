"""Does what `publication` plans, now and whenever a namespace opts in or out.

Two replicas do the same work beside each other and need no leader: every step may be done twice. An API server that
is gone is asked again, later and later; nothing that runs depends on an answer.
"""

import logging
import threading
from datetime import UTC, datetime, timedelta
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from controlplane.apiserver import KubeError
from controlplane.backoff import Backoff
from controlplane.kube import NAMESPACES, Collection
from controlplane.logs import tell, tell_crash
from controlplane.publication import Publish, Step, plan
from controlplane.publisher import OPT_IN, Publisher

BREATH_SECONDS = 1.0  # between two rounds, however much happens
BACKOFF_SECONDS = 2.0, 60.0  # at first, and at most
QUICK_SECONDS = 1.0  # a watch that ends sooner than that is not asked for again at once
DOUBT_SECONDS = 600.0  # after which all is published anew
STUCK_SECONDS = 300.0  # without a round, after which the process is better restarted
OPTED_IN = Collection(NAMESPACES, OPT_IN, metadata=True)
MAX_ROUNDS = 50  # plans until nothing is left to do; an upgrade takes five


class Metrics:
    """What is counted of publication, for Prometheus. Names start with `envoy_sidecar_controlplane_`."""

    def __init__(self, current: str, registry: CollectorRegistry) -> None:
        """`current` is the hash of this replica's own bootstrap."""
        prefix = "envoy_sidecar_controlplane"
        self.steps = Counter(f"{prefix}_publication_steps", "Done, by kind.", ["step"], registry=registry)
        self.failures = Counter(
            f"{prefix}_publication_failures", "Rounds that ended early, by reason.", ["reason"], registry=registry
        )
        self.refusals = Counter(
            f"{prefix}_publication_refusals", "Namespaces that refused their bootstrap.", registry=registry
        )
        self.bootstraps = Gauge(f"{prefix}_bootstraps", "Contents that are kept.", registry=registry)
        self.namespaces = Gauge(f"{prefix}_namespaces", "Namespaces that are opted in.", registry=registry)
        self.last_success = Gauge(
            f"{prefix}_publication_last_success_timestamp_seconds",
            "When everything was published for the last time.",
            registry=registry,
        )
        Info(f"{prefix}_bootstrap", "The content of this replica.", registry=registry).info({"hash": current})


class Rounds:
    """One replica. `run` returns after `stop`, which any thread may call, and a signal handler."""

    def __init__(self, publisher: Publisher, retention: timedelta, period: float, metrics: Metrics) -> None:
        self._publisher, self._retention, self._period, self._metrics = publisher, retention, period, metrics
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._doubted = self._alive = monotonic()
        self._published = False
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        publisher.on_refusal = self._refused

    def run(self) -> None:
        """Publishes until it is told to stop."""
        self._watching.start()
        backoff = Backoff(*BACKOFF_SECONDS)
        while not self._stopping.is_set():
            self._wake.clear()
            done = self._round()
            self._alive = monotonic()
            self._stopping.wait(BREATH_SECONDS)
            if done:
                backoff.worked()
                self._wake.wait(self._period)
            else:
                self._stopping.wait(backoff.failed())

    def stop(self) -> None:
        """Lets `run` return after the step that it is doing."""
        self._stopping.set()
        self._wake.set()

    @property
    def healthy(self) -> bool:
        """Whether rounds are still being made, successful or not, and namespaces watched."""
        watching = self._watching.ident is None or self._watching.is_alive() or self._stopping.is_set()
        return watching and monotonic() - self._alive < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        """Whether everything has been published once."""
        return self._published and not self._stopping.is_set()

    def _round(self) -> bool:
        """Whether all that was to be done is done."""
        if monotonic() - self._doubted > DOUBT_SECONDS:
            self._publisher.doubt()
            self._doubted = monotonic()
        try:
            self._settle()
        except KubeError as error:
            self._metrics.failures.labels(error.reason).inc()
            tell("publication failed", logging.WARNING, reason=error.reason, problem=str(error))
            return False
        except Exception:  # a bug of ours ends a round, not the process: the next may find another world
            self._metrics.failures.labels("internal").inc()
            tell_crash("crash")
            return False
        self._published = True
        self._metrics.last_success.set(datetime.now(UTC).timestamp())
        return True

    def _settle(self) -> None:
        for _ in range(MAX_ROUNDS):
            now = datetime.now(UTC)
            observed = self._publisher.observe()
            self._metrics.bootstraps.set(len(observed.archive))
            self._metrics.namespaces.set(len(observed.opted_in))
            steps = plan(observed, self._publisher.current, self._retention, now)
            for step in steps:
                if self._stopping.is_set():
                    return
                self._act(step, now)
            if not steps:
                return

    def _act(self, step: Step, now: datetime) -> None:
        try:
            self._publisher.act(step, now)
        except KubeError as error:
            if error.reason != "conflict":  # another replica was faster: plan again
                raise
            return
        kind = type(step).__name__.lower()
        self._metrics.steps.labels(kind).inc()
        self._alive = monotonic()
        tell(kind, **{name: str(getattr(step, name)) for name in step.__slots__ if name != "record"})

    def _refused(self, step: Step, error: KubeError) -> None:
        if isinstance(step, Publish):
            self._metrics.refusals.inc()
            tell("namespace refuses its bootstrap", logging.ERROR, namespace=step.namespace, problem=str(error))

    def _watch(self) -> None:
        """Wakes the rounds when a namespace opts in or out."""
        backoff, version = Backoff(*BACKOFF_SECONDS), ""
        while not self._stopping.is_set():
            try:
                version = self._hear(version, backoff)
            except Exception as error:  # a bug of ours must not leave the process deaf
                if isinstance(error, KubeError):
                    tell("watch failed", logging.WARNING, reason=error.reason, problem=str(error))
                else:
                    tell_crash("crash")
                version = ""
                self._stopping.wait(backoff.failed())

    def _hear(self, version: str, backoff: Backoff) -> str:
        """Until a watch of namespaces ends, which it does after a while; the version that it came to."""
        if not version:
            version = self._publisher.kube.newest(OPTED_IN)
            self._wake.set()  # a round, for what happened before that
        begun = monotonic()
        for event in self._publisher.kube.events(OPTED_IN, version):
            version = event.version
            backoff.worked()  # however it ends
            if event.type != "BOOKMARK":
                self._wake.set()
        if monotonic() - begun < QUICK_SECONDS:
            raise KubeError("short", "watch of namespaces: it ended at once")
        backoff.worked()
        return version
