"""When a change is told: lists of what is due, from what happened and the time (seconds, of any clock that only grows).

A Service's endpoints at once, and then at most every 200 ms, or every 20 ms if one of them is gone. All else when
nothing has happened for 100 ms, or a second after it began.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.xds.mesh import Key

ENDPOINTS_SECONDS = 0.2
FEWER_SECONDS = 0.02  # what flaps is told fifty times a second at most
QUIET_SECONDS = 0.1
MOST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be told now: the endpoints of these Services; `rest`: all else as well."""

    services: frozenset[Key] = frozenset()
    rest: bool = False

    def __bool__(self) -> bool:
        return self.rest or bool(self.services)


@dataclass(slots=True)
class Debounce:
    """Forgets what it has called due, but for the time."""

    _waiting: dict[Key, float] = field(default_factory=dict)  # until when
    _told: dict[Key, float] = field(default_factory=dict)  # when last
    _first: float | None = None
    _last: float = 0.0

    def endpoints(self, service: Key, now: float, *, fewer: bool) -> None:
        """A Service's endpoints differ; `fewer`: one of them is gone."""
        told = self._told.get(service)
        until = now if told is None else max(now, told + (FEWER_SECONDS if fewer else ENDPOINTS_SECONDS))
        self._waiting[service] = min(self._waiting.get(service, until), until)

    def rest(self, now: float) -> None:
        """Something else does."""
        self._first = now if self._first is None else self._first
        self._last = now

    def due(self, now: float) -> Due:
        """What is to be told by now."""
        services = frozenset(service for service, until in self._waiting.items() if until <= now)
        for service in services:
            del self._waiting[service]
        self._told = {service: at for service, at in self._told.items() if at + ENDPOINTS_SECONDS > now}
        self._told.update(dict.fromkeys(services, now))
        rest = self._first is not None and self._rest_until() <= now
        if rest:
            self._first = None
        return Due(services, rest)

    def seconds(self, now: float) -> float | None:
        """How long there is nothing to tell; None: until something happens."""
        until = min(self._times(), default=None)
        return None if until is None else max(0.0, until - now)

    def _times(self) -> Iterator[float]:
        yield from self._waiting.values()
        if self._first is not None:
            yield self._rest_until()

    def _rest_until(self) -> float:
        return min(self._last + QUIET_SECONDS, (self._first or 0.0) + MOST_SECONDS)
