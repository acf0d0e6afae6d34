"""The cluster in our words: Services, their endpoints, and the pods whose proxies ask. Values only, all immutable."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

from controlplane.xds.policy import DEFAULT, Policy

Protocol = Literal["auto", "http", "grpc", "tcp"]
Form = Literal["balanced", "headless", "external"]
# Among which endpoints a caller's requests are spread: all; first those of its zone; first those of its node, then of
# its zone; only those of its node.
Locality = Literal["any", "zone", "node", "node-only"]


class Key(NamedTuple):
    """Names an object of a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an object, for its author. `about` is `Service shop/orders`, `uid` says which of that name."""

    about: str
    message: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port of a Service; `auto` leaves it to Envoy to look whether it carries HTTP."""

    number: int
    name: str = ""
    protocol: Protocol = "auto"


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, without its endpoints. `addresses`: its ClusterIPs; `families`: `IPv4`, `IPv6`, the preferred first.

    Only a `balanced` one gets resources of its own. A `headless` and an `external` one is reached at the address that
    the application dials: whoever uses them chooses a replica, or a host, himself.
    """

    key: Key
    form: Form = "balanced"
    addresses: tuple[str, ...] = ()
    families: tuple[str, ...] = ("IPv4",)
    ports: tuple[Port, ...] = ()
    locality: Locality = "any"
    sticky: bool = False
    policy: Policy = DEFAULT
    problems: tuple[Problem, ...] = ()
    uid: str = ""

    def port(self, number: int) -> Port | None:
        """The port of that number."""
        return next((port for port in self.ports if port.number == number), None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a port of a Service is served. Not `ready`: it is terminating, and still serves.

    `zones` and `nodes` are those whose callers should prefer it, by the hints of its slice. `port` is 0 in a Batch.
    """

    address: str
    port: int = 0
    ready: bool = True
    pod: str = ""
    node: str = ""
    zone: str = ""
    zones: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Workload:
    """An injected pod, as far as it decides what its proxy is told. `upstreams` None: it declares none.

    `node` is empty where only metadata was asked for: in a cluster the pod's token says it.
    """

    key: Key
    upstreams: tuple[str, ...] | None = None
    node: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Endpoints that serve the same ports, as a slice has them; `ports` are numbers by the name of the Service's port.

    A slice of 33 KB may have 1,000 endpoints and 100 ports: what serves which is spelled out when it is asked for.
    """

    family: str
    ports: tuple[tuple[str, int], ...]
    endpoints: tuple[Endpoint, ...]

    def numbers(self, name: str) -> tuple[int, ...]:
        """At which the Service's port of that name is served."""
        return tuple(number for one, number in self.ports if one == name)


MOST_PLACES = 50_000  # of all ports of a Service: each is some bytes of memory here and in every caller's Envoy
_NONE: Mapping[str, Service] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Mesh:
    """The cluster at one moment. Services by namespace and name; `zones` by node."""

    services: Mapping[str, Mapping[str, Service]] = field(default_factory=dict)
    endpoints: Mapping[Key, tuple[Batch, ...]] = field(default_factory=dict)  # without empty ones
    zones: Mapping[str, str] = field(default_factory=dict)
    workloads: Mapping[Key, Workload] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # of objects that could not be read at all, and of slices

    def service(self, key: Key) -> Service | None:
        """The Service of that name."""
        return self.services.get(key.namespace, _NONE).get(key.name)

    def all_services(self) -> Iterator[Service]:
        """Every Service, in the order of their names."""
        for namespace in sorted(self.services):
            for name in sorted(self.services[namespace]):
                yield self.services[namespace][name]

    def batches_of(self, service: Service, port: Port) -> tuple[Batch, ...]:
        """What has endpoints of that port.

        In a dual-stack cluster every pod is in slices of both families: the preferred one's are taken, if it has any.
        """
        batches = [one for one in self.endpoints.get(service.key, ()) if one.numbers(port.name)]
        families = {one.family for one in batches}
        chosen = min(families, key=lambda family: (family != service.families[0], family), default="")
        return tuple(one for one in batches if one.family == chosen)

    def endpoints_of(self, service: Service, port: Port) -> tuple[Endpoint, ...]:
        """The endpoints of one port, in the order of their addresses."""
        return merged(self.batches_of(service, port), port.name, MOST_PLACES // max(len(service.ports), 1))


def merged(batches: Iterable[Batch], name: str, most: int) -> tuple[Endpoint, ...]:
    """The endpoints of all together, each address and port once, in their order; `most` at most.

    Between two slices a pod may be in both: whoever calls it ready is not older than its readiness.
    """
    found: dict[tuple[str, int], Endpoint] = {}
    for batch in batches:
        for number in batch.numbers(name):
            for one in batch.endpoints:
                place = one.address, number
                if place not in found or one.ready > found[place].ready:
                    found[place] = one
    return tuple(replace(found[place], port=place[1]) for place in sorted(found)[:most])


def services_that_differ(was: Mesh, now: Mesh) -> Iterator[Key]:
    """Those that came, went, or are other objects now."""
    for namespace in _differing(was.services, now.services):
        there, here = was.services.get(namespace, _NONE), now.services.get(namespace, _NONE)
        yield from (Key(namespace, name) for name in _differing(there, here))


def services_whose_endpoints_differ(was: Mesh, now: Mesh) -> Iterator[Key]:
    """The same of their endpoints."""
    return _differing(was.endpoints, now.endpoints)


_K = TypeVar("_K")


def _differing(was: Mapping[_K, object], now: Mapping[_K, object]) -> Iterator[_K]:
    if was is not now:
        yield from (key for key, value in now.items() if was.get(key) is not value)
        yield from (key for key in was if key not in now)
