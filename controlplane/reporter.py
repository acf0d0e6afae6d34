"""Tells authors what is wrong with their Services, as Events: anew while it lasts, and again if one is not written.

Each namespace has a share of what is written: what one author changes again and again keeps no other from hearing of
his own.
"""

import logging
import threading
from collections.abc import Callable, Set
from datetime import UTC, datetime
from time import monotonic

from controlplane.apiserver import KubeError
from controlplane.backoff import Backoff
from controlplane.extensions import Json
from controlplane.logs import tell, tell_crash
from controlplane.xds import explain
from controlplane.xds.allowance import Allowances
from controlplane.xds.events import event, period
from controlplane.xds.mesh import Mesh, Problem

OF_A_NAMESPACE, A_SECOND = 50.0, 0.2  # Events, of a moment and after that
NAMESPACES = 10_000  # whose share is remembered
LOOK_SECONDS = 60.0  # between two looks at what has to be written anew, or was not within its share
BACKOFF_SECONDS = 1.0, LOOK_SECONDS  # at first, and at most, while the API server cannot be asked


def _now() -> datetime:
    return datetime.now(UTC)


class Reporter:
    """`write` may raise KubeError, and is called in a thread of its own."""

    def __init__(
        self, write: Callable[[Json], None], now: Callable[[], datetime] = _now, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._write, self._now, self._look_seconds = write, now, look_seconds
        self._there: Set[Problem] = frozenset()
        self._written: dict[Problem, int] = {}  # in which period last
        self._shares = Allowances(A_SECOND, OF_A_NAMESPACE, NAMESPACES)
        self._backoff = Backoff(*BACKOFF_SECONDS)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def look(self, mesh: Mesh) -> None:
        """There is another Mesh. Not for several threads."""
        found = frozenset(one for one in explain.problems(mesh) if "/" in one.about)
        if found == self._there:
            return
        with self._changed:
            self._there = found
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether it still looks, if there ever was something to tell."""
        return self._thread.ident is None or self._thread.is_alive()

    def _run(self) -> None:
        there: Set[Problem] = frozenset()
        seconds = 0.0
        while True:
            there = self._wait(there, seconds)
            seconds = self._tell(there)

    def _wait(self, known: Set[Problem], seconds: float) -> Set[Problem]:
        """What there is, once it is another, or after that time; while the API server cannot be asked, after it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._backoff.failures and self._there is not known, seconds)
            return self._there

    def _tell(self, there: Set[Problem]) -> float:
        """Writes what is due; how long to wait after that."""
        now = self._now()
        self._written = {one: number for one, number in self._written.items() if one in there}
        due = [one for one in there if self._written.get(one) != period(one, now)]
        for problem in sorted(due, key=lambda one: (one.about, one.message)):
            if self._is_within_its_share(problem) and not self._try(problem, now):
                return self._backoff.failed()  # each of the others would wait for its own timeout
        self._backoff.worked()
        return self._look_seconds

    def _try(self, problem: Problem, now: datetime) -> bool:
        """Whether the API server can be asked. What it refuses, as in a namespace that ends, has had its turn."""
        reason = ""
        try:
            self._write(event(problem, now))
        except KubeError as error:
            reason = error.reason
            tell("event not written", logging.WARNING, reason=reason, problem=str(error)[:300])
        except Exception:  # a bug of ours with one of them is not to keep others from hearing of theirs
            tell_crash("crash", about=problem.about[:300])
        if reason not in ("unreachable", "server", "malformed"):
            self._written[problem] = period(problem, now)
        return reason != "unreachable"

    def _is_within_its_share(self, problem: Problem) -> bool:
        share = self._shares.of(problem.about.partition(" ")[2].partition("/")[0], monotonic())
        if share.take(1, monotonic()) >= 0:
            return True
        share.give_back(1)
        return False
