"""Tells authors what is wrong with their Services, as Events.

Each namespace has a share of what is written: what one author changes again and again keeps no other from hearing of
his own.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from time import monotonic

from controlplane.extensions import Json
from controlplane.kube import KubeError
from controlplane.xds import explain
from controlplane.xds.allowance import Allowances
from controlplane.xds.events import events
from controlplane.xds.mesh import Mesh, Problem

OF_A_NAMESPACE, A_SECOND = 50.0, 0.2  # Events, of a moment and after that
NAMESPACES = 10_000  # whose share is remembered
WAITING = 1000  # Events

_LOG = logging.getLogger("controlplane.reporter")


class Reporter:
    """`write` may raise KubeError, and is called in a thread of its own; what it does not write is not missed."""

    def __init__(self, write: Callable[[Json], None]) -> None:
        self._write = write
        self._known: frozenset[Problem] = frozenset()
        self._shares = Allowances(A_SECOND, OF_A_NAMESPACE, NAMESPACES)
        self._waiting: Queue[Problem] = Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def look(self, mesh: Mesh) -> None:
        """There is another Mesh. Not for several threads."""
        found = frozenset(explain.problems(mesh))
        new, self._known = found - self._known, found
        for problem in sorted(new, key=lambda one: (one.about, one.message)):
            if "/" in problem.about and self._is_within_its_share(problem):
                with suppress(Full):
                    self._waiting.put_nowait(problem)
        if not self._waiting.empty() and self._thread.ident is None:
            self._thread.start()

    def _is_within_its_share(self, problem: Problem) -> bool:
        share = self._shares.of(problem.about.partition(" ")[2].partition("/")[0], monotonic())
        if share.take(1, monotonic()) >= 0:
            return True
        share.give_back(1)
        return False

    def _run(self) -> None:
        while True:
            for event in events([self._waiting.get()], datetime.now(UTC)):
                try:
                    self._write(event)
                except KubeError as error:
                    facts = {"reason": error.reason, "problem": str(error)[:300]}
                    _LOG.warning("event not written", extra={"facts": facts})
                    if error.reason == "unreachable":
                        self._forget()

    def _forget(self) -> None:
        """Those that wait: each would wait for its own timeout."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
