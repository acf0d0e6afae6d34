"""The delta conversation about one type: what a proxy asked for, what it has, what it took and what it threw back.

At most one response is unanswered. Until the answer comes, what changes is only remembered as a name to look at, so a
slow proxy skips what lies between, and one that never answers costs nothing more.
"""

import sys
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from controlplane.xds.cache import difference
from controlplane.xds.interest import Interest
from controlplane.xds.received import Accepted, ConversationError, Rejected, Stale
from controlplane.xds.snapshot import WILDCARD, Caller, Kind, Resource
from controlplane.xds.wire import Request, Response, size

MAX_NAMES = 20_000  # of one type and proxy: 10,000 ports of Services, and room
MAX_NAME = 1024  # characters
MAX_BYTES = 2 << 20  # of resources in one response, unless a single one is larger
MAX_RESOURCES = 500  # in one response: others have their turn before the next
ABSENT = ""  # in the place of a version: the proxy was told that there is none


class Flight(NamedTuple):  # as what is in `wire`: one for each response
    """A response that is not answered yet, given out at `since`."""

    nonce: str
    since: float
    versions: dict[str, str]
    former: dict[str, str | None]  # what the proxy has of these names, if it takes none of it


@dataclass(slots=True, eq=False)
class Topic:
    """One type of one stream. What is in `held` is what the cache tells of."""

    kind: Kind
    interest: Interest
    caller: Callable[[], Caller]
    wildcards: bool  # whether a proxy can subscribe to all that concerns it
    flight: Flight | None = None
    held: dict[str, str | None] = field(default_factory=dict)  # name -> its version there; None: to be told in any case
    rejected: dict[str, str] = field(default_factory=dict)  # name -> a version that the proxy does not take
    without: frozenset[str] = frozenset()  # rejected, and the proxy had none before: it is told of something instead
    leaving: dict[str, float] = field(default_factory=dict)  # gone, but not to be taken away before that time
    _nonce: int = 0
    _names: set[str] = field(default_factory=set)  # subscribed by name
    _wild: frozenset[str] | None = None  # what the wildcard holds; None: not subscribed to
    _due: set[str] = field(default_factory=set)  # to be looked at
    _trials: list[tuple[str, ...]] = field(default_factory=list)  # to be sent apart from others
    _refresh: bool = False  # the wildcard may hold other names
    _silent: bool = False  # the wildcard has had no answer yet, and gets one even if it holds nothing

    @property
    def names(self) -> Set[str]:
        """Those that the proxy asked for."""
        return self._names

    @property
    def waits(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._due or self._trials or self._refresh or self._silent)

    # In

    def open(self, request: Request, warming: Set[str]) -> None:
        """Takes the first request in, which says what the proxy has; but what is `warming` it needs all the same.

        Raises ConversationError, as `change` does.
        """
        _check(request, len({*request.subscribe, *request.versions}))
        self._turn_to(self.caller())
        known = request.versions.keys() - warming
        for name in known:
            self._expect(name, request.versions[name])
        if not request.subscribe and self.wildcards:
            self._subscribe_to_all()
        self._subscribe(request.subscribe, known)

    def change(self, request: Request) -> None:
        """Takes the subscriptions of a later request in."""
        _check(request, len(self._names) + len({*request.subscribe} - self._names))
        self._unsubscribe(request.unsubscribe)
        self._subscribe(request.subscribe, frozenset())

    def answer(self, request: Request, now: float) -> Accepted | Rejected | Stale:
        """Takes the answer in that a request holds."""
        flight = self.flight
        if flight is None or flight.nonce != request.nonce:
            return Stale(self.kind)
        if request.error is None:
            self.land()
            return Accepted(self.kind, now - flight.since)
        self.flight = None
        names = tuple(name for name in flight.versions if name in self.held)
        if names and len(flight.versions) == 1:
            self._reject(names[0], flight)
        elif names:  # even if one alone: what was at fault may be no longer asked for
            middle = len(names) // 2
            self._trials += [names[middle:], names[:middle]]
            for name in names:
                if self.held[name] is not None:  # or it is to be told in any case, by now
                    self.held[name] = flight.former[name] if flight.versions[name] else None
        return Rejected(self.kind, names, request.error)

    def _reject(self, name: str, flight: Flight) -> None:
        self.rejected[name] = flight.versions[name]  # it counts as held: only another version is sent
        if not flight.former[name]:
            self.without |= {name}
            self._due.add(name)

    def land(self) -> None:
        """The response counts as accepted."""
        flight, self.flight = self.flight, None
        for name, version in flight.versions.items() if flight else ():
            if version == ABSENT and not self._wants(name):
                self._forget(name)

    def notice(self, name: str) -> None:
        """The cache has something new of that name."""
        if name == WILDCARD:
            self._refresh = True
        else:
            self._due.add(self.interest.heard(name))

    def repeat(self, names: Iterable[str]) -> None:
        """Those of them that it subscribes to, the proxy needs once more."""
        for name in self._names.intersection(names):
            self._expect(name, None)

    def close(self) -> None:
        """The stream is over."""
        self.interest.close(self.held)

    def _subscribe(self, names: Iterable[str], known: Set[str]) -> None:
        for name in names:
            if name == WILDCARD:
                self._subscribe_to_all()
                continue
            self._names.add(sys.intern(name))
            if name not in known:
                self._expect(name, None)

    def _subscribe_to_all(self) -> None:
        if self._wild is None:
            self._wild = frozenset()
            self._turn_to(self.caller())
            for name in self.flight.versions if self.flight else ():  # the proxy may take it in after it gave all up
                self._expect(name, None)
        for name in self._wild:
            self._expect(name, None)
        self._refresh = self._silent = True

    def _unsubscribe(self, names: Iterable[str]) -> None:
        for name in names:
            if name == WILDCARD:
                self._unsubscribe_from_all()
            elif name in self._names:
                self._names.discard(name)
                if self._wild is None:
                    self._forget(name)
                else:  # the proxy may have dropped what its wildcard holds as well, or not: it is told again
                    self._expect(name, None)

    def _unsubscribe_from_all(self) -> None:
        self._wild = None
        self._silent = False
        self._turn_to(self.caller())
        for name in self.held.keys() - self._names:
            self._forget(name)

    def _expect(self, name: str, version: str | None) -> None:
        """The proxy is to know of that name, and has that version."""
        name = sys.intern(name)  # one text for all streams
        if name not in self.held:
            self.interest.add(name)
        self.held[name] = version
        self._due.add(name)

    def _forget(self, name: str) -> None:
        self.held.pop(name, None)
        self.rejected.pop(name, None)
        self.without -= {name}
        self._due.discard(name)
        self.leaving.pop(name, None)
        self.interest.drop(name)

    # Out

    def tell(self, now: float) -> Response | None:
        """What the proxy does not know yet, if anything. Not while a response is unanswered."""
        if self._refresh:
            self._look()
        while self._trials:
            if (response := self._differences(self._trials.pop(), now)) is not None:
                return response
        if self._due and (response := self._differences(tuple(self._due), now)) is not None:
            return response
        return self._send([], [], now) if self._silent else None

    def settle(self, until: float) -> None:
        """Nothing unanswered names any more what is `leaving`: it may be taken away then, if not before."""
        self.leaving = {name: until if time == inf else time for name, time in self.leaving.items()}

    def take_away(self, now: float) -> Response | None:
        """Tells what is gone, as far as it may be taken away. Not while a response is unanswered."""
        names = sorted(name for name, time in self.leaving.items() if time <= now)
        for name in names:
            del self.leaving[name]
        return self._send([], names, now) if names else None

    def _look(self) -> None:
        """At what the wildcard holds now."""
        self._refresh = False
        caller = self.caller()
        self._turn_to(caller)
        if self._wild is None or not self.wildcards:
            return
        former, self._wild = self._wild, self.interest.all(caller)
        for name in difference(former, self._wild):
            if name in self.held:
                self._due.add(name)
            elif name in self._wild:
                self._expect(name, None)

    def _turn_to(self, caller: Caller) -> None:
        """From now on names mean what they mean to this caller."""
        if self.interest.turn_to(caller, self.held, to_all=self._wild is not None):
            self._due.update(self.held)

    def _differences(self, names: Sequence[str], now: float) -> Response | None:
        self._due = self._due.difference(names)  # another: an emptied set keeps its room, 2 KB of each stream
        resources: list[Resource] = []
        absent: list[str] = []
        room = MAX_BYTES
        for index, name in enumerate(names):
            if name not in self.held:
                continue
            resource = (self._now(name) if self._wants(name) else None) or self._remains(name)
            if resource is None:
                self._miss(name, absent)
                continue
            self.leaving.pop(name, None)
            if resource.version == self.held[name]:
                continue
            room -= size(resource)
            if resources and (room < 0 or len(resources) == MAX_RESOURCES):
                self._due.update(names[index:])
                break
            resources.append(resource)
        return self._send(resources, absent, now) if resources or absent else None

    def _now(self, name: str) -> Resource | None:
        """What the proxy should have of that name."""
        resource = self.interest.get(name)
        if name not in self.without or resource is None:
            return resource
        if resource.version == self.rejected.get(name):
            return self.interest.instead(name) or resource
        self.without -= {name}
        return resource

    def _remains(self, name: str) -> Resource | None:
        """What stays with the proxy of that which is gone: if it has it, or, of routes, the listener that asks."""
        has = self.kind is Kind.ROUTES or (self.held[name] and name not in self.without)
        is_subscribed = self._wild is not None or name in self._names
        return self.interest.remains(name) if has and is_subscribed else None

    def _wants(self, name: str) -> bool:
        return name in self._names or (self._wild is not None and name in self._wild)

    def _miss(self, name: str, absent: list[str]) -> None:
        """There is no such resource, or it is none of this proxy's business any more."""
        held = self.held[name]
        if held and self.kind in (Kind.CLUSTER, Kind.ENDPOINTS):
            self.leaving.setdefault(name, inf)
        elif held != ABSENT:
            absent.append(name)

    def _send(self, resources: Sequence[Resource], absent: Sequence[str], now: float) -> Response:
        self._nonce += 1
        self._silent = False
        versions = {resource.name: resource.version for resource in resources}
        versions.update(dict.fromkeys(absent, ABSENT))
        self.flight = Flight(str(self._nonce), now, versions, {name: self.held.get(name) for name in versions})
        self.held.update(versions)
        if self.rejected:
            for name in versions.keys() & self.rejected.keys() - self.without:
                del self.rejected[name]
        return Response(self.kind, self.flight.nonce, resources, absent)


def _check(request: Request, names: int) -> None:
    """Raises ConversationError if it asks for too much, with so many names in all."""
    if names > MAX_NAMES:
        raise ConversationError("too_many_names", f"at most {MAX_NAMES} names of one type")
    if any(len(name) > MAX_NAME for name in (*request.subscribe, *request.versions)):
        raise ConversationError("name_too_long", f"at most {MAX_NAME} characters in a name")
