"""What every proxy is to be told, at one moment: immutable, versioned by content, built when somebody asks for it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

WILDCARD = "*"  # in the place of a name: the set that a wildcard subscription holds; with what is behind it, a group's


class Kind(StrEnum):
    """Types of resources; the value is the type's URL."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `version` is a hash of its canonical source, `body` a serialised google.protobuf.Any."""

    name: str
    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose proxy asks: by its token and the API server, never by its own word. `zone` and `node` may be empty.

    `upstreams` are the Services that the pod declares: `orders`, `users.accounts`; none: the operator's default scope.
    """

    namespace: str
    pod: str
    service_account: str = ""
    node: str = ""
    zone: str = ""
    upstreams: tuple[str, ...] = ()


class Snapshot(Protocol):
    """Equal worlds give equal names and versions, in every replica and after every restart."""

    def names(self, kind: Kind, caller: Caller) -> Sequence[str]:
        """What a wildcard subscription of this caller holds; the same object as long as it is the same."""

    def variant(self, kind: Kind, caller: Caller) -> str:
        """What stands behind the names of which `changed` tells this caller: the same in every world."""

    def meant(self, kind: Kind, name: str, caller: Caller) -> str:
        """What this caller's proxy means by a name, for `get`: one name may mean something else to each."""

    def group(self, caller: Caller) -> str:
        """WILDCARD, and who has the same names as this caller: the same in every world."""

    def get(self, kind: Kind, name: str) -> Resource | None:
        """The resource, for what is `meant` by any name that `names` gave or that a resource refers to; None: there is
        none. It is called as the proxy calls it.
        """

    def instead(self, kind: Kind, name: str) -> Resource | None:
        """What is told to a proxy that does not take the resource, and has no other of that name; None: nothing."""

    def remains(self, kind: Kind, name: str) -> Resource | None:
        """What is told, now that there is none, to a proxy that has the resource, or, of routes, a listener that needs
        them; None: it is taken away.
        """

    def prepare(self, caller: Caller) -> Iterator[None]:
        """Makes what this caller's proxy will ask for, a little at each step; `get` finds it made then."""

    def follow(self, former: "Snapshot") -> Iterator[None]:
        """The same of what `changed` will look at. `former` may be asked meanwhile."""

    def retain(self, callers: Iterable[Caller]) -> None:
        """These are connected: what concerned only others, now and the last time, is not kept ready any more."""

    def changed(self, former: "Snapshot") -> Iterable[tuple[Kind, str]]:
        """What differs since `former`, among all that was ever asked of either.

        A name that is gone is among them; and a group for which `names` differ. One that means something else to each
        is without that, or with their `variant`.
        """
