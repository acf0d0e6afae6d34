"""The newest snapshot, and who is to be told what of it. Holds no queue: a subscriber is told that a name is to be
looked at, looks when it can, and sees the newest then, however much happened meanwhile.
"""

from collections.abc import Mapping
from typing import Protocol

from controlplane.xds.snapshot import Caller, Kind, Resource, Snapshot


class Subscriber(Protocol):
    """Whoever wants to know of changes. It is compared by identity."""

    def notice(self, kind: Kind, name: str) -> None:
        """A name is to be looked at again; WILDCARD: the set of names."""

    def wake(self) -> None:
        """That was all: now is the time to look, and not before, for one name may need another."""


class Cache:
    """One process's. Not for several threads."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None  # None: nothing is known yet, and nobody may be served
        self._index: Mapping[Kind, dict[str, set[Subscriber]]] = {kind: {} for kind in Kind}
        self._found: dict[tuple[Kind, str], Resource] = {}  # what this snapshot gave already
        self._sets: dict[int, tuple[object, frozenset[str]]] = {}

    def store(self, snapshot: Snapshot) -> int:
        """Makes it the newest, and tells those whom it concerns of each name that differs; how many names did."""
        former, self.snapshot = self.snapshot, snapshot
        if former is None:
            return 0
        changes = list(snapshot.changed(former))
        self._found.clear()
        self._sets.clear()
        noticed: set[Subscriber] = set()
        for kind, name in changes:
            subscribers = self._index[kind].get(name, ())
            noticed.update(subscribers)
            for subscriber in subscribers:
                subscriber.notice(kind, name)
        for subscriber in noticed:
            subscriber.wake()
        return len(changes)

    def get(self, kind: Kind, name: str) -> Resource | None:
        """The resource as it is now."""
        found = self._found.get((kind, name))
        if found is None and self.snapshot is not None and (found := self.snapshot.get(kind, name)) is not None:
            self._found[kind, name] = found
        return found

    def variant(self, kind: Kind, caller: Caller) -> str:
        """What to put behind the names of this caller's proxy."""
        return "" if self.snapshot is None else self.snapshot.variant(kind, caller)

    def wildcard(self, kind: Kind, caller: Caller) -> frozenset[str]:
        """The names that this caller's wildcard holds; one object for all callers of the same scope."""
        if self.snapshot is None:
            return frozenset()
        names = self.snapshot.names(kind, caller)
        kept, found = self._sets.get(id(names), (None, frozenset()))
        if kept is not names:
            found = frozenset(names)
            self._sets[id(names)] = (names, found)  # kept alive, so that its id stays its own
        return found

    def subscribe(self, subscriber: Subscriber, kind: Kind, name: str) -> None:
        """From now on it is told of that name."""
        self._index[kind].setdefault(name, set()).add(subscriber)

    def unsubscribe(self, subscriber: Subscriber, kind: Kind, name: str) -> None:
        """From now on it is not. The last one takes the entry along."""
        subscribers = self._index[kind].get(name)
        if subscribers is not None:
            subscribers.discard(subscriber)
            if not subscribers:
                del self._index[kind][name]

    def subscriptions(self) -> dict[Kind, int]:
        """How many names are subscribed to, by anyone."""
        return {kind: len(names) for kind, names in self._index.items()}
