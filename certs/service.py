"""The process: keeps certificates valid until it is told to stop; its metrics and health are on a plain HTTP port.

It looks once a period by the clock on the wall, and at once when something that is watched changes. Whatever fails is
tried again, later each time, up to the period; it is told and counted, and never ends the process.
"""

import logging
import random
import signal
import threading
import time
from dataclasses import dataclass, field

from certs.kube import REASONS, WATCHED, ConflictError, Kube, KubeError
from certs.logs import log, tell
from certs.metrics import Metrics
from certs.pages import Pages, serving
from certs.rounds import Keeper, settle
from certs.steps import Step

FAILURES = (*REASONS, "internal")
PAUSE_SECONDS = 1  # between two looks, however much changes
PATIENCE = 5  # periods without a look, after which the process is no longer healthy


@dataclass(slots=True)
class Service:
    """One process. `period`: seconds."""

    keeper: Keeper
    kube: Kube
    period: float
    metrics: Metrics = field(default_factory=lambda: Metrics(FAILURES))
    ready: bool = False
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _looked: float = field(default_factory=time.monotonic)

    @property
    def healthy(self) -> bool:
        """Whether it still looks, however that ends."""
        return time.monotonic() - self._looked < PATIENCE * max(self.period, 60)

    def run(self) -> None:
        """Returns after `stop`, with the step that it is at done."""
        for path, query in WATCHED:
            threading.Thread(target=self._watch, args=(path, query), daemon=True, name=f"watch {path}").start()
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            failures = 0 if self._look() else failures + 1
            if not self._stopping.wait(min(PAUSE_SECONDS, self.period)):
                self._wake.wait(until_next(self.period, failures))

    def stop(self) -> None:
        """Lets `run` return; a signal handler may call it."""
        self._stopping.set()
        self._wake.set()

    def _look(self) -> bool:
        """Does all that is to be done; whether it could."""
        try:
            settled = settle(self.keeper, self._tell)
        except KubeError as error:
            self._failed(error.reason, "cannot read the cluster", str(error))
            return False
        except Exception:  # our own bug must not end what keeps certificates valid: the next look may be another
            self.metrics.failed("internal")
            log.exception("internal error")
            return False
        finally:
            self._looked = time.monotonic()
        self.metrics.show(settled.observed, settled.at, self.keeper.installation.authority.name)
        if settled.failures:
            return False
        self.metrics.last_success.set(settled.at.timestamp())
        self.ready = True
        return True

    def _tell(self, step: Step, error: KubeError | None) -> None:
        facts = {"step": step.verb, "target": str(step.target), "reason": step.reason}
        if error is None:
            self.metrics.did(step.verb)
            tell("step", facts)
        elif isinstance(error, ConflictError):
            self.metrics.conflicts.inc()
            tell("conflict", facts)
        else:
            event = "no end to it" if error.reason == "unsettled" else "step failed"
            self._failed(error.reason, event, str(error), facts)

    def _failed(self, reason: str, event: str, message: str, facts: dict[str, str] | None = None) -> None:
        self.metrics.failed(reason)
        tell(event, {**(facts or {}), "failure": reason, "error": message}, logging.ERROR)

    def _watch(self, path: str, query: dict[str, str]) -> None:
        failures = 0
        while True:
            try:
                for _ in self.kube.watch(path, query):
                    failures = 0
                    self._wake.set()
            except KubeError as error:
                # What it would have brought is seen a period later. Only a refusal will not go away by itself.
                if error.reason not in ("unreachable", "server") and not failures:
                    self._failed(error.reason, "cannot watch", str(error))
                failures += 1
            time.sleep(delay(failures, self.period))


def until_next(period: float, failures: int) -> float:
    """Seconds until the next look."""
    to_period = period - time.time() % period
    return min(to_period, delay(failures, period)) if failures else to_period


def delay(failures: int, period: float) -> float:
    """Seconds: 1, 2, 4, up to the period; half of it by chance, so that replicas do not come together."""
    return min(2.0 ** max(failures - 1, 0), period) * random.uniform(0.5, 1)  # noqa: S311  # no secret


def run(service: Service, address: str, port: int) -> None:
    """Runs until SIGTERM or SIGINT. Raises OSError if the port cannot be had."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with serving(_pages(service), address, port) as bound:
        tell("running", {"metrics_port": bound, "period_seconds": service.period})
        service.run()
    tell("stopped", {})


def _pages(service: Service) -> Pages:
    return {
        "/metrics": lambda: (True, service.metrics.page()),
        "/healthz": lambda: (service.healthy, b""),
        "/readyz": lambda: (service.ready, b""),
    }
