"""The Envoy bootstrap that the pods of a namespace share, and what each pod lays over it.

One immutable ConfigMap per namespace and content. The webhook imports this module to know its name; it needs
nothing but the standard library, and knows nothing of Kubernetes beyond that object.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal

from controlplane import access_log, clusters, discovery, explicit, listeners, probes, statistics, tracing
from controlplane.access_log import AccessLog
from controlplane.bounds import Between, HostPort
from controlplane.clusters import ADMIN_SOCKET
from controlplane.extensions import Json, extension
from controlplane.ports import PORTS, Ports
from controlplane.tracing import Tracing

__all__ = [
    "PORTS",
    "AccessLog",
    "Bootstrap",
    "Ports",
    "config_map",
    "config_map_name",
    "config_map_of",
    "content_hash",
    "digest",
    "overlay",
    "render",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """The settings file's `bootstrap:` section. A change makes a ConfigMap of another name."""

    # Where a pod in mode none listens: it has no init container that could ask the node for IPv6.
    ip_families: Literal["dual", "ipv4"] = "dual"
    # Connections from clients and from the application, together, that a sidecar keeps open; it refuses the next.
    max_connections: Annotated[int, Between(1, 10_000_000)] = 50_000
    # How long a sidecar waits for an address to accept a connection.
    connect_timeout_seconds: Annotated[int, Between(1, 3600)] = 10
    # The `Upgrade` tokens that pass besides websocket, SPDY/3.1 and tcp. Envoy answers 403 to any other.
    upgrades: tuple[str, ...] = ()
    tracing: Tracing = field(default_factory=Tracing)
    # Who tells sidecars where Services are: host and port, and the host is a name that its certificate holds. Without
    # one, as before it is reached, traffic goes to where the application sends it.
    control_plane: HostPort = ""


NAME_PREFIX = "envoy-sidecar-bootstrap-"
UPGRADES = ("websocket", "SPDY/3.1", "tcp")  # browsers; kubectl exec and port-forward; docker attach


def render(bootstrap: Bootstrap) -> dict[str, str]:
    """The ConfigMap's data: a file for nodes with IPv6, and one for nodes without; both again for mode tproxy; and one
    for mode none.

    Without IPv6, a listener on `::` makes Envoy exit; the init container knows, and links the right one. With a control
    plane, two more say how to trust it and how to be trusted.
    """
    files = {
        f"bootstrap-{families}{suffix}.json": _redirected(bootstrap, families == "dual", keeps_source)
        for families in ("dual", "ipv4")
        for suffix, keeps_source in (("", False), ("-tproxy", True))
    }
    files["bootstrap-none.json"] = _explicit(bootstrap)
    if bootstrap.control_plane:
        files |= discovery.secrets(discovery.way(bootstrap.control_plane))
    return {name: json.dumps(content, indent=1) + "\n" for name, content in files.items()}


@lru_cache(maxsize=8)
def content_hash(bootstrap: Bootstrap) -> str:
    """Ten hexadecimal digits that say the content."""
    return digest(render(bootstrap))


def digest(data: Mapping[str, str]) -> str:
    """The same of a ConfigMap's data, whoever rendered it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]


@lru_cache(maxsize=8)
def config_map_name(bootstrap: Bootstrap) -> str:
    """The name says the content: a sidecar that restarts reads what its arguments were made for."""
    return f"{NAME_PREFIX}{content_hash(bootstrap)}"


def config_map(bootstrap: Bootstrap, namespace: str) -> Json:
    """The ConfigMap object for that namespace."""
    return config_map_of(render(bootstrap), namespace)


def config_map_of(data: Mapping[str, str], namespace: str) -> Json:
    """The same of data that another version may have rendered."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{NAME_PREFIX}{digest(data)}",
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": "envoy-sidecar",
                "app.kubernetes.io/part-of": "envoy-sidecar-injector",
            },
        },
        "immutable": True,
        "data": dict(data),
    }


def overlay(
    *,
    node_metadata: Mapping[str, object],
    access_log: AccessLog,
    tcp_probes: Mapping[str, int] | None = None,
    tcp_probe_seconds: int = 1,
) -> Json:
    """What a pod's `--config-yaml` merges over the file: scalars replace, repeated fields append.

    `tcp_probes` adds a listener that connects to these ports when asked for these paths. Envoy reads no environment;
    the kubelet puts values in place of `$(VAR)`, unescaped, so only values that are safe inside JSON may stand there:
    names and addresses.
    """
    return {
        "node": {"metadata": dict(node_metadata)},
        "layered_runtime": {"layers": [_layer("pod", access_log)]},
        **({"static_resources": probes.static(tcp_probes, tcp_probe_seconds)} if tcp_probes else {}),
    }


def _upgrades(bootstrap: Bootstrap) -> tuple[str, ...]:
    """Envoy refuses a token that comes twice, in whatever case, and CONNECT is another thing."""
    tokens = {token.casefold(): token for token in reversed((*UPGRADES, *bootstrap.upgrades))}
    return tuple(token for name, token in reversed(tokens.items()) if name != "connect")


def _redirected(bootstrap: Bootstrap, dual: bool, keeps_source: bool) -> Json:
    """For a pod whose traffic is redirected."""
    way = discovery.way(bootstrap.control_plane) if bootstrap.control_plane else None
    return _document(
        bootstrap,
        listeners=listeners.static(
            dual=dual,
            upgrades=_upgrades(bootstrap),
            tracing=tracing.manager_options(bootstrap.tracing),
            keeps_source=keeps_source,
        ),
        clusters=[
            *clusters.static(bootstrap.connect_timeout_seconds),
            *tracing.clusters(bootstrap.tracing, dual=dual),
            *([discovery.cluster(way, dual=dual)] if way else []),
        ],
        told=way is not None,
    )


def _explicit(bootstrap: Bootstrap) -> Json:
    """For a pod in mode none. It asks no control plane: nothing that one tells would ever be used.

    A listener that it tells of takes over what iptables redirected, and here the application connects to the proxy
    itself; with routes from there, the proxy would answer 404 where no control plane is.
    """
    dual = bootstrap.ip_families == "dual"
    return _document(
        bootstrap,
        listeners=[explicit.listener(dual=dual, upgrades=_upgrades(bootstrap)), *listeners.pages(dual=dual)],
        clusters=[
            explicit.cluster(dual=dual, connect_timeout_seconds=bootstrap.connect_timeout_seconds),
            clusters.admin(),
        ],
        told=False,
    )


def _document(bootstrap: Bootstrap, *, listeners: list[Json], clusters: list[Json], told: bool) -> Json:
    return {
        # A socket file in a volume that only the sidecar mounts: the application cannot reach it over loopback.
        "admin": {
            "address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "static_resources": {"listeners": listeners, "clusters": clusters},
        **({"dynamic_resources": discovery.dynamic()} if told else {}),
        "stats_config": statistics.CONFIG,
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "layered_runtime": {"layers": [_layer("base", "off")]},
        "overload_manager": _overload(bootstrap.max_connections),
    }


def _layer(name: str, choice: AccessLog) -> Json:
    """A layer of Envoy's runtime; of two that hold a key, the later wins."""
    return {"name": name, "static_layer": access_log.percentages(choice)}


def _overload(max_connections: int) -> Json:
    """Near the container's memory limit, whatever it is, Envoy frees memory, then refuses requests.

    Where there is no memory controller, this monitor makes Envoy exit; the kubelet does not start there either.
    """
    memory = "envoy.resource_monitors.cgroup_memory"
    return {
        "refresh_interval": "1s",
        "resource_monitors": [
            extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=max_connections,
            ),
            extension(memory, "resource_monitors.cgroup_memory.v3.CgroupMemoryConfig"),
        ],
        "actions": [
            {"name": f"envoy.overload_actions.{action}", "triggers": [{"name": memory, "threshold": {"value": value}}]}
            for action, value in (("shrink_heap", 0.9), ("stop_accepting_requests", 0.98))
        ],
    }
