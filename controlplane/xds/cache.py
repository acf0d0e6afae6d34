"""The newest snapshot, and who is to be told what of it. Holds no queue: a subscriber is told that a name is to be
looked at, looks when it can, and sees the newest then, however much happened meanwhile.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from controlplane.xds.snapshot import WILDCARD, Caller, Kind, Resource, Snapshot


class Subscriber(Protocol):
    """Whoever wants to know of changes. It is compared by identity."""

    def notice(self, kind: Kind, name: str) -> None:
        """A name is to be looked at again; WILDCARD: the set of names."""

    def wake(self) -> None:
        """That was all: now is the time to look, and not before, for one name may need another."""


Wake = Callable[[Iterable[Subscriber]], None]


class Cache:
    """One process's. Not for several threads."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None  # None: nothing is known yet, and nobody may be served
        self._index: Mapping[Kind, dict[str, set[Subscriber]]] = {kind: {} for kind in Kind}
        self._found: dict[tuple[Kind, str], Resource] = {}  # what this snapshot gave already
        self._sets: dict[int, tuple[object, frozenset[str]]] = {}
        self._former_sets: dict[int, tuple[object, frozenset[str]]] = {}
        self.stored_at = 0.0  # by the clock of whoever stores

    def store(self, snapshot: Snapshot, wake: Wake | None = None, now: float = 0.0) -> int:
        """Makes it the newest, and tells those whom it concerns of each name that differs; how many names did.

        Then these are to be woken: by `wake`, or at once.
        """
        former, self.snapshot, self.stored_at = self.snapshot, snapshot, now
        if former is None:
            return 0
        changes = list(snapshot.changed(former))
        noticed: dict[Subscriber, None] = {}
        number = 0
        for kind, name in changes:
            is_group = name.startswith(WILDCARD)
            number += not is_group
            subscribers = self._index[kind].get(name, ())
            noticed.update(dict.fromkeys(subscribers))
            for subscriber in subscribers:
                subscriber.notice(kind, WILDCARD if is_group else name)
        self._found.clear()
        self._former_sets, self._sets = self._sets, {}
        (wake or _wake_all)(noticed)
        return number

    def retain(self, callers: Iterable[Caller]) -> None:
        """These are connected: nothing is kept ready for others."""
        if self.snapshot is not None:
            self._found.clear()  # or the snapshot would not hear who asks for what it has forgotten
            self.snapshot.retain(callers)

    def get(self, kind: Kind, name: str) -> Resource | None:
        """The resource as it is now."""
        found = self._found.get((kind, name))
        if found is None and self.snapshot is not None and (found := self.snapshot.get(kind, name)) is not None:
            self._found[kind, name] = found
        return found

    def instead(self, kind: Kind, name: str) -> Resource | None:
        """What a proxy is told that does not take the resource, and has no other of that name."""
        return None if self.snapshot is None else self.snapshot.instead(kind, name)

    def remains(self, kind: Kind, name: str) -> Resource | None:
        """What a proxy is told of what is gone, if it has it; None: it is taken away."""
        return None if self.snapshot is None else self.snapshot.remains(kind, name)

    def variant(self, kind: Kind, caller: Caller) -> str:
        """What stands behind the names of which this caller is told."""
        return "" if self.snapshot is None else self.snapshot.variant(kind, caller)

    def meant(self, kind: Kind, name: str, caller: Caller) -> str:
        """What this caller's proxy means by a name, for `get`."""
        return name if self.snapshot is None else self.snapshot.meant(kind, name, caller)

    def group(self, caller: Caller) -> str:
        """By which it is known whom it concerns if names come or go."""
        return WILDCARD if self.snapshot is None else self.snapshot.group(caller)

    def wildcard(self, kind: Kind, caller: Caller) -> frozenset[str]:
        """The names that this caller's wildcard holds; one object for all callers of the same scope."""
        if self.snapshot is None:
            return frozenset()
        names = self.snapshot.names(kind, caller)
        kept, found = self._sets.get(id(names)) or self._former_sets.get(id(names)) or (None, frozenset())
        if kept is not names:
            found = _shared(frozenset(names))
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


def _wake_all(subscribers: Iterable[Subscriber]) -> None:
    for subscriber in subscribers:
        subscriber.wake()


@lru_cache(maxsize=64)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """The same object for equal ones: each namespace has a set of its own, although in the scope `cluster` all are."""
    return names


@lru_cache(maxsize=16)
def difference(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """What is in one of them only: found out once for all proxies that go from one wildcard to the other."""
    return one ^ other
