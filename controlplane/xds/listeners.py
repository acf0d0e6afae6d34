"""A listener for each port on which a Service in view is called. The static one hands connections over by the port.

None of them binds: what no listener is for goes on to where it was going, as without a control plane.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane import access_log
from controlplane.clusters import BUFFER_BYTES, PASSTHROUGH
from controlplane.connection_manager import http_chain, transparent
from controlplane.extensions import Json, extension
from controlplane.xds import scope
from controlplane.xds.mesh import Port, Service

CONNECT_ATTEMPTS = 3  # for a connection of TCP: nobody has heard a byte of it before one comes about


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """How requests are handled at every port. With `on_demand`, one whose cluster is not there waits for it."""

    upgrades: Sequence[str]
    tracing: Mapping[str, Any]
    on_demand: bool = False


def listener(port: int, services: Sequence[Service], http: Http, *, ipv6: bool = False) -> Json:
    """LDS. Nothing but the chains depends on which Services there are: Envoy changes those in place, and closes only
    connections of a chain that differs. In any other case it closes all that the listener has.
    """
    members = [(service, found) for service in services if (found := service.port(port)) is not None]
    return {
        "name": scope.listener_name(port, ipv6=ipv6),
        # One for each family: where there is no IPv6, Envoy refuses such an address, and no Service has one either.
        "address": _address("::" if ipv6 else "0.0.0.0", port),  # noqa: S104  bound to nothing
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        # No inspectors: the static listener has looked at the first bytes, and what it found goes with the connection.
        # Requests to others pass through as HTTP whatever the Services carry, or the last of HTTP would end them.
        "filter_chains": [*_tcp_chains(members, ipv6=ipv6), _http(port, http)],
        "default_filter_chain": {"name": "tcp", "filters": [_tcp(PASSTHROUGH)]},
    }


def has_ipv6(service: Service) -> bool:
    """Whether it is called at an address of IPv6."""
    return any(":" in address for address in service.addresses)


def _tcp_chains(members: Sequence[tuple[Service, Port]], *, ipv6: bool) -> Iterator[Json]:
    """TCP names no host: what tells a Service is the address that was dialled. Envoy refuses one that comes twice.

    What a Service says of itself is in its cluster: another chain would end its connections.
    """
    taken: set[str] = set()
    for service, port in members:
        addresses = [ip for ip in service.addresses if (":" in ip) is ipv6 and ip not in taken]
        if port.protocol == "tcp" and addresses:
            taken.update(addresses)
            yield {
                "name": f"{service.key}:{port.number}",
                "filter_chain_match": {
                    "prefix_ranges": [{"address_prefix": ip, "prefix_len": 128 if ipv6 else 32} for ip in addresses]
                },
                "filters": [_tcp(scope.cluster_name(service, port), **_OF_SERVICES)],
            }


# The caller's address is all that TCP shows of it; it decides only where the balancer asks for it.
_OF_SERVICES: Json = {"hash_policy": [{"source_ip": {}}], "max_connect_attempts": CONNECT_ATTEMPTS}


def _http(port: int, http: Http) -> Json:
    waiting = [_ON_DEMAND] if http.on_demand else []
    manager = transparent(
        "outbound", (), http.upgrades, filters=waiting, tracing=http.tracing, local_reply_config=_LOCAL_REPLIES
    )
    del manager["typed_config"]["route_config"]
    manager["typed_config"]["rds"] = {
        "route_config_name": scope.routes_name(port),
        # Until it has its routes the listener is not used: connections pass through.
        "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
    }
    return http_chain(manager)


# A body that outgrows what is kept of it, while nobody takes it: without repetitions, that had been a 503.
_LOCAL_REPLIES: Json = {
    "mappers": [
        {
            "filter": {
                "status_code_filter": {
                    "comparison": {"op": "EQ", "value": {"default_value": 507, "runtime_key": "outbound_status"}}
                }
            },
            "status_code": 503,
        }
    ]
}

# A cluster that the control plane does not bring in time fails the request that waited, with 503, as if it were none.
_ON_DEMAND = extension(
    "envoy.filters.http.on_demand",
    "filters.http.on_demand.v3.OnDemand",
    odcds={"source": {"ads": {}, "resource_api_version": "V3"}, "timeout": "2s"},
)


def _tcp(cluster: str, **options: Any) -> Json:
    return extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="outbound",
        cluster=cluster,
        idle_timeout="0s",
        access_log=access_log.tcp("outbound"),
        **options,
    )


def _address(ip: str, port: int) -> Json:
    return {"socket_address": {"address": ip, "port_value": port}}
