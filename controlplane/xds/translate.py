"""Mesh in, Envoy's resources out: which one a name means, what it is made of, and how. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.bootstrap import UPGRADES, Bootstrap
from controlplane.clusters import passing
from controlplane.extensions import Json
from controlplane.tracing import manager_options
from controlplane.xds import clusters, endpoints, listeners, routes, scope
from controlplane.xds.mesh import Mesh, Service
from controlplane.xds.scope import Scope, View
from controlplane.xds.snapshot import Kind


@dataclass(frozen=True, slots=True)
class Choices:
    """The operator's, as far as resources depend on them. `domain` is the cluster's, such as cluster.local.

    With `on_demand`, a proxy whose pod declares nothing asks for the clusters of requests when it first needs them.
    """

    scope: Scope = field(default_factory=Scope)
    domain: str = "cluster.local"
    upgrades: tuple[str, ...] = UPGRADES
    tracing: Mapping[str, Any] = field(default_factory=dict)
    on_demand: bool = False

    @staticmethod
    def of(bootstrap: Bootstrap, scope: Scope, domain: str, *, on_demand: bool = False) -> "Choices":
        """Those that go with the static listeners of that bootstrap."""
        tokens = {
            token.casefold(): token for token in (*bootstrap.upgrades, *UPGRADES) if token.casefold() != "connect"
        }
        return Choices(scope, domain, tuple(tokens.values()), manager_options(bootstrap.tracing), on_demand)

    def waits(self, of: View) -> bool:
        """Whether clusters come on demand in that view."""
        return self.on_demand and of.upstreams is None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a resource is made of, and how: as long as `of` is equal, so is what `make` returns."""

    of: tuple[object, ...]
    make: Callable[[], Json]


def of_service(kind: Kind, name: str, mesh: Mesh, choices: Choices) -> Recipe | None:
    """A cluster or its endpoints; None if there is no such one."""
    return _of_cluster(name, mesh, choices) if kind is Kind.CLUSTER else _of_endpoints(name, mesh)


def _of_cluster(name: str, mesh: Mesh, choices: Choices) -> Recipe | None:
    found = scope.read_cluster_name(mesh, name)
    if found is None:
        return None
    service, port = found
    return Recipe((service,), lambda: clusters.cluster(name, service, port, choices.domain))


def _of_endpoints(name: str, mesh: Mesh) -> Recipe | None:
    found = scope.read_endpoints_name(mesh, name)
    if found is None:
        return None
    service, port, node, zone = found
    shown = scope.cluster_name(service, port)
    return Recipe(
        (service.locality, len(service.ports), mesh.batches_of(service, port)),
        lambda: endpoints.assignment(shown, service.locality, node, zone, mesh.endpoints_of(service, port)),
    )


def instead(kind: Kind, name: str) -> Json | None:
    """What stands for a resource that cannot be used: requests pass through, as if nothing were told of their Service.

    Without its cluster, the routes that name it would answer 503. Without any of the others, all passes through anyway.
    """
    return passing(name) if kind is Kind.CLUSTER else None


def of_view(kind: Kind, name: str, of: View, members: Sequence[Service], choices: Choices) -> Recipe | None:
    """A listener or its routes, by the name that proxies call it; None if nothing in view is called so."""
    number, ipv6 = read_name(kind, name)
    here = _at(number, members)
    if not here or (ipv6 and not any(map(listeners.has_ipv6, here))):
        return None
    return Recipe(here, lambda: _of_port(kind, name, of, here, choices))


def remains(kind: Kind, name: str, of: View, choices: Choices) -> Json:
    """What stays of a listener or its routes when the port has no Service any more: all passes through.

    Envoy closes the connections of a listener that goes, and many are to addresses that were never a Service's.
    """
    return _of_port(kind, name, of, (), choices)


def read_name(kind: Kind, name: str) -> tuple[int, bool]:
    """The port of a listener or its routes, and whether it is for IPv6 alone; port 0: no such thing is called so."""
    if kind is Kind.LISTENER:
        return scope.read_listener_name(name) or (0, False)
    return scope.read_routes_name(name) or 0, False


def _of_port(kind: Kind, name: str, of: View, here: Sequence[Service], choices: Choices) -> Json:
    number, ipv6 = read_name(kind, name)
    if kind is Kind.ROUTES:
        return routes.routes(number, of.namespace, here, choices.domain)
    http = listeners.Http(upgrades=choices.upgrades, tracing=choices.tracing, on_demand=choices.waits(of))
    return listeners.listener(number, here, http, ipv6=ipv6)


def _at(port: int, members: Sequence[Service]) -> tuple[Service, ...]:
    return tuple(service for service in members if service.port(port) is not None)


def cluster_names(of: View, members: Sequence[Service], choices: Choices) -> tuple[str, ...]:
    """Those of a view that its proxies have from the start."""
    return tuple(
        scope.cluster_name(service, port)
        for service in members
        for port in service.ports
        if port.protocol == "tcp" or not choices.waits(of)
    )


def listener_names(members: Sequence[Service]) -> tuple[str, ...]:
    """Those of a view."""
    ports = {port.number for service in members for port in service.ports}
    of_ipv6 = {port.number for service in members if listeners.has_ipv6(service) for port in service.ports}
    return (
        *(scope.listener_name(port) for port in sorted(ports)),
        *(scope.listener_name(port, ipv6=True) for port in sorted(of_ipv6)),
    )
