"""From what sources tell to the next Mesh: everything in one thread, so that the rest of the control plane needs none.

Nothing is handed on before every kind of object was listed once. However much happens meanwhile, of each object only
the latest state waits. A turn that fails, by a bug of ours, is told of; then all is listed anew, and what was handed on
last stays until that is done.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from time import monotonic
from typing import Any

from controlplane.backoff import Backoff
from controlplane.xds.debounce import Debounce
from controlplane.xds.guard import Guard
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.world import WHAT, What, World, key_of

BACKOFF_SECONDS = 1.0, 30.0  # at first, and at most
TURN_SECONDS = 5.0  # between two turns, if nothing happens
STUCK_SECONDS = 90.0  # without a turn, after which the process is better restarted


class Feed:
    """Any thread may call `listed`, `put`, `remove`, `release` and `stop`; `run` calls `on_mesh` in its own.

    `on_failure` is called while the exception is being handled that ended a turn.
    """

    def __init__(
        self,
        on_mesh: Callable[[Mesh], None],
        clock: Callable[[], float] = monotonic,
        on_failure: Callable[[Exception], None] = lambda _bug: None,
    ) -> None:
        self._on_mesh, self._clock, self._on_failure = on_mesh, clock, on_failure
        self._world, self._debounce, self._guard = World(), Debounce(), Guard()
        self._changed = threading.Condition()
        self._backoff = Backoff(*BACKOFF_SECONDS)
        self._first = True  # the next Mesh is told whole
        self._turned: float | None = None  # when it last did
        self._ended = False
        self._wanted: frozenset[What] = frozenset()
        self._lists: dict[What, Sequence[Any]] = {}
        self._objects: dict[tuple[What, Key], Any] = {}  # None: gone
        self._heard: dict[What, float] = {}
        self._synced: set[What] = set()
        self._stopping = self._releasing = False

    def listed(self, what: What, objects: Sequence[Any]) -> None:
        """These are all objects of that kind."""
        with self._told(what):
            self._wanted -= {what}
            self._lists[what] = objects
            self._objects = {key: found for key, found in self._objects.items() if key[0] != what}

    def put(self, what: What, found: Any) -> None:
        """An object is there, or is another now."""
        with self._told(what):
            self._objects[what, key_of(found)] = found

    def remove(self, what: What, found: Any) -> None:
        """An object is gone."""
        with self._told(what):
            self._objects[what, key_of(found)] = None

    def heard(self, what: What) -> None:
        """The source is there, and has nothing to tell."""
        self._heard[what] = self._clock()

    def release(self) -> None:
        """The operator's word: what the guard holds back may go."""
        with self._changed:
            self._releasing = True
            self._changed.notify()

    def stop(self) -> None:
        """Lets `run` return."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def holding(self) -> str:
        """What the guard holds back, in words."""
        return self._guard.holding

    @property
    def refusals(self) -> int:
        """How often the guard began to."""
        return self._guard.refusals

    @property
    def ready(self) -> bool:
        """Whether every kind was listed."""
        return self._synced >= set(WHAT)

    @property
    def wanted(self) -> Set[What]:
        """The kinds that have to be listed anew, since what is known of them may be wrong."""
        return self._wanted

    @property
    def healthy(self) -> bool:
        """Whether `run`, if it was called, still takes its turns, successful or not."""
        return self._turned is None or (not self._ended and self._clock() - self._turned < STUCK_SECONDS)

    def silence(self) -> Mapping[What, float]:
        """How many seconds ago each source was heard of."""
        now = self._clock()
        return {what: now - at for what, at in list(self._heard.items())}

    def run(self) -> None:
        """Hands on one Mesh after another, until it is told to stop."""
        try:
            while self._wait():
                try:
                    self._turn()
                except Exception as bug:
                    self._on_failure(bug)
                    self._start_over()
        finally:
            self._ended = not self._stopping

    def _wait(self) -> bool:
        """Until there is something to do, or nothing was for a while; False: it is to stop."""
        with self._changed:
            self._turned = self._clock()
            due = self._debounce.seconds(self._turned)
            self._changed.wait_for(self._has_work, TURN_SECONDS if due is None else min(due, TURN_SECONDS))
            return not self._stopping

    def _turn(self) -> None:
        with self._changed:
            lists, self._lists = self._lists, {}
            objects, self._objects = self._objects, {}
            released, self._releasing = self._releasing, False
        self._take(lists, objects)
        self._hand_on(released)

    def _start_over(self) -> None:
        """After a while, so that a bug which comes again and again has its cost."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, self._backoff.failed())
            self._world, self._debounce = World(), Debounce()
            self._lists, self._objects, self._synced = {}, {}, set()
            self._first, self._wanted = True, frozenset(WHAT)

    def _has_work(self) -> bool:
        return bool(self._lists or self._objects or self._stopping or self._releasing)

    @contextmanager
    def _told(self, what: What) -> Iterator[None]:
        with self._changed:
            self._heard[what] = self._clock()
            yield
            self._changed.notify()

    def _take(self, lists: Mapping[What, Iterable[Any]], objects: Mapping[tuple[What, Key], Any]) -> None:
        for what, found in lists.items():
            self._world.replace(what, found)
            self._synced.add(what)
        for (what, key), one in objects.items():
            if one is None:
                self._world.remove(what, key)
            else:
                self._world.put(what, one)
        now = self._clock()
        for service in self._world.touched:
            self._debounce.endpoints(service, now, fewer=service in self._world.fewer)
        if self._world.rest and (lists or objects):
            self._debounce.rest(now)

    def _hand_on(self, released: bool) -> None:
        if not self.ready:
            return
        due = self._debounce.due(self._clock())
        if self._first or due or released:
            if released:
                self._guard.release()
            # The operator's word is for all that is gone by now, told or not.
            whole = self._first or released
            mesh = self._world.mesh() if whole else self._world.mesh(due.services, rest=due.rest)
            self._on_mesh(self._guard.passes(mesh, self._clock()))
            self._first = False
            self._backoff.worked()
