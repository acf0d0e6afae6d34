"""Which Services a caller's proxy is told of, and what the resources are called that hold them.

Every proxy calls a resource the same: `shop/orders:80` a cluster and its endpoints, `out_80` and `http_80` a listener
and its routes. Another name would be another resource, and Envoy closes the connections of a listener that goes, or
that leads to another cluster. What a name means to a caller stands behind it in here: which endpoints come first where
its zone or node matters, `shop/orders:80@zone=eu-1a`, and what its view is, `out_80/shop`, `http_80/shop+1f2e3d4c5b`.
"""

import hashlib
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from controlplane.xds.mesh import Key, Locality, Mesh, Port, Service

_CLUSTER = re.compile(r"([^/:@]+)/([^/:@]+):([0-9]{1,5})", re.ASCII)
_LISTENER = re.compile(r"out(6?)_([1-9][0-9]{0,4})", re.ASCII)
_ROUTES = re.compile(r"http_([1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a pod's proxy is told of that declares no upstreams: its `namespace`, the `cluster`, or a `list`.

    `services` is that list: `orders` is the caller's own, `users.accounts` is of the namespace accounts.
    """

    default: Literal["namespace", "list", "cluster"] = "namespace"
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """All that decides which Services a proxy is told of. `upstreams` None: the default scope.

    `located`: it is known on which node it is.
    """

    namespace: str
    upstreams: tuple[str, ...] | None = None
    located: bool = False

    @property
    def token(self) -> str:
        """What it is called in the names of resources."""
        declared = "" if self.upstreams is None else f"+{_digest(self.upstreams)}"
        return f"{self.namespace}{declared}{'@' if self.located else ''}"


def services(mesh: Mesh, scope: Scope, of: View) -> tuple[Service, ...]:
    """The Services in view that have clusters of their own, in the order of their names."""
    return tuple(service for service in _named(mesh, scope, of) if is_told(service, of))


def is_told(service: Service, of: View) -> bool:
    """Whether its clusters are told: not if kube-proxy alone knows how to keep its traffic on the caller's node."""
    return service.form == "balanced" and (service.locality != "node-only" or of.located)


def sees(scope: Scope, of: View, keys: Set[Key]) -> bool:
    """Whether one of these Services is, or would be, in view."""
    listed = _listed(scope, of)
    if listed is not None:
        return not keys.isdisjoint(listed)
    return scope.default == "cluster" or any(one.namespace == of.namespace for one in keys)


@lru_cache(maxsize=2048)  # of 25 KB, if a pod declares 128
def _listed(scope: Scope, of: View) -> tuple[Key, ...] | None:
    """The Services that are in view by their names, in order; None: those of a namespace, or all."""
    names = scope.services if of.upstreams is None and scope.default == "list" else of.upstreams
    return None if names is None else tuple(sorted({key(name, of.namespace) for name in names}))


def _named(mesh: Mesh, scope: Scope, of: View) -> Iterator[Service]:
    listed = _listed(scope, of)
    if listed is not None:
        yield from (service for one in listed if (service := mesh.service(one)) is not None)
    elif scope.default == "cluster":
        yield from mesh.all_services()
    else:
        own = mesh.services.get(of.namespace, {})
        yield from (own[name] for name in sorted(own))


def key(name: str, namespace: str) -> Key:
    """The Service that a pod of that namespace calls so: `orders`, `users.accounts`."""
    service, _, elsewhere = name.partition(".")
    return Key(elsewhere or namespace, service)


def cluster_name(service: Service, port: Port) -> str:
    """The cluster of one port, and what proxies call its endpoints."""
    return f"{service.key}:{port.number}"


def read_cluster_name(mesh: Mesh, name: str) -> tuple[Service, Port] | None:
    """The Service and its port; None if there is no such cluster."""
    match = _CLUSTER.fullmatch(name)
    service = mesh.service(Key(match[1], match[2])) if match else None
    port = service.port(int(match[3])) if match and service else None
    return (service, port) if service and port and service.form == "balanced" else None


def place(locality: Locality, zone: str, node: str) -> str:
    """What of a caller's place makes a difference."""
    match locality:
        case "any":
            return ""
        case "zone":
            return zone
        case "node":
            return f"{node},{zone}" if node else ""
        case "node-only":
            return node


def near(locality: Locality, place: str) -> str:
    """What stands behind the name of endpoints: those of a caller at that place."""
    return "" if locality == "any" else f"@{locality}={place}"


def nearby(zone: str, node: str) -> frozenset[str]:
    """All that may stand there for a caller at that place."""
    localities: tuple[Locality, ...] = ("zone", "node", "node-only")
    return frozenset(near(one, place(one, zone, node)) for one in localities)


def read_place(name: str) -> str:
    """What stands behind the name of endpoints; empty: they are the same everywhere."""
    _, at, place = name.partition("@")
    return at + place


def read_endpoints_name(mesh: Mesh, name: str) -> tuple[Service, Port, str, str] | None:
    """The Service, its port, and the caller's node and zone, as far as they matter; None: no such endpoints.

    That a place exists, the caller shows who is there: it may be there before its Node was heard of.
    """
    shown, _, behind = name.partition("@")
    found = read_cluster_name(mesh, shown)
    if found is None:
        return None
    service, port = found
    at = behind.partition("=")[2]
    is_place = "@" not in at and bool(at or service.locality != "node-only")
    if not is_place or name != shown + near(service.locality, at):
        return None
    node, _, zone = ("", "", at) if service.locality == "zone" else at.partition(",")
    return service, port, node, zone


def listener_name(port: int, *, ipv6: bool = False) -> str:
    """The listener for connections to a port, of one family: a Service with the other changes nothing of it."""
    return f"out{'6' if ipv6 else ''}_{port}"


def read_listener_name(name: str) -> tuple[int, bool] | None:
    """The port, and whether it is that for IPv6."""
    match = _LISTENER.fullmatch(name)
    return (int(match[2]), bool(match[1])) if match else None


def routes_name(port: int) -> str:
    """The routes of its listeners."""
    return f"http_{port}"


def read_routes_name(name: str) -> int | None:
    """The port."""
    match = _ROUTES.fullmatch(name)
    return int(match[1]) if match else None


def in_view(of: View) -> str:
    """What stands behind the name of a listener or routes: those of this view."""
    return f"/{of.token}"


def read_view(name: str) -> tuple[str, str]:
    """What a proxy calls it, and the view's token."""
    shown, _, token = name.partition("/")
    return shown, token


def _digest(names: tuple[str, ...]) -> str:
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:10]
