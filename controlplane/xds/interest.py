"""What the cache tells one stream of one type: the names that its proxy knows, as they are meant for its caller."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.xds.cache import Cache, Subscriber
from controlplane.xds.snapshot import Caller, Kind, Resource


@dataclass(slots=True, eq=False)
class Interest:
    """Names are the proxy's; the cache's have behind them what they mean to the caller."""

    kind: Kind
    cache: Cache
    subscriber: Subscriber
    caller: Caller
    _variant: str = ""
    _group: str | None = None  # by which the cache tells that names are others; None: need not

    def __post_init__(self) -> None:
        self._variant = sys.intern(self.cache.variant(self.kind, self.caller))

    def turn_to(self, caller: Caller, names: Iterable[str], *, to_all: bool) -> bool:
        """From now on they mean what they mean to this caller, `to_all` of whose names the proxy may be subscribed.

        Whether what these mean may be something else.
        """
        self._join(self.cache.group(caller) if to_all else None)
        if caller == self.caller:
            return False
        for name in names:
            self.drop(name)
        self.caller, self._variant = caller, sys.intern(self.cache.variant(self.kind, caller))
        for name in names:
            self.add(name)
        return True

    def add(self, name: str) -> None:
        """This as well."""
        self.cache.subscribe(self.subscriber, self.kind, name + self._variant)

    def drop(self, name: str) -> None:
        """This no more."""
        self.cache.unsubscribe(self.subscriber, self.kind, name + self._variant)

    def close(self, names: Iterable[str]) -> None:
        """Nothing any more, and these are all."""
        self._join(None)
        for name in names:
            self.drop(name)

    def heard(self, name: str) -> str:
        """What the proxy calls that of which the cache told."""
        return name.removesuffix(self._variant)

    def get(self, name: str) -> Resource | None:
        """The resource as it is now."""
        return self.cache.get(self.kind, self._meant(name))

    def instead(self, name: str) -> Resource | None:
        """What is told to a proxy that does not take the resource, and has no other of that name."""
        return self.cache.instead(self.kind, self._meant(name))

    def remains(self, name: str) -> Resource | None:
        """What a proxy is told of what is gone, if it has it; None: it is taken away."""
        return self.cache.remains(self.kind, self._meant(name))

    def all(self, caller: Caller) -> frozenset[str]:
        """The names that a wildcard of this caller holds."""
        return self.cache.wildcard(self.kind, caller)

    def _meant(self, name: str) -> str:
        return self.cache.meant(self.kind, name, self.caller)

    def _join(self, group: str | None) -> None:
        if group == self._group:
            return
        if self._group is not None:
            self.cache.unsubscribe(self.subscriber, self.kind, self._group)
        self._group = None if group is None else sys.intern(group)
        if self._group is not None:
            self.cache.subscribe(self.subscriber, self.kind, self._group)
