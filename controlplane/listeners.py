"""The static listeners. Traffic passes through them unchanged, whether or not there is a control plane.

What Envoy changes by default is switched off here. What cannot be: it adds x-request-id and x-forwarded-proto, chunks
anew, speaks HTTP/1.1 to a server whose client speaks 1.0, makes `GET http://host/path` a `GET /path` (so ports of
forward proxies are to be opaque), and answers 404 to `OPTIONS *`.
"""

from collections.abc import Sequence
from typing import Any

from controlplane import access_log
from controlplane.clusters import ADMIN, BLACKHOLE, BUFFER_BYTES, INBOUND, MAX_HEADERS, MAX_HEADERS_KB, PASSTHROUGH
from controlplane.extensions import PRESERVE_CASE, Json, extension
from controlplane.ports import PORTS

_HTTP_MANAGER = "envoy.filters.network.http_connection_manager"
_HTTP_MANAGER_TYPE = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_ORIGINAL_DST = extension("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
_INSPECTORS = [
    extension("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector"),
    extension("envoy.filters.listener.http_inspector", "filters.listener.http_inspector.v3.HttpInspector"),
]


def static(*, dual: bool, upgrades: Sequence[str]) -> list[Json]:
    """Every static listener; `dual` also on IPv6. `upgrades` are the Upgrade tokens that pass."""
    return [
        # A dynamic listener for the port that the application dialled, if there is one, takes the connection over.
        {**_detecting("outbound", PORTS.outbound, PASSTHROUGH, dual, upgrades), "use_original_dst": True},
        _detecting("inbound", PORTS.inbound, INBOUND, dual, upgrades),
        _opaque("opaque-outbound", PORTS.opaque_outbound, PASSTHROUGH, dual),
        _opaque("opaque-inbound", PORTS.opaque_inbound, INBOUND, dual),
        _admin_page("metrics", PORTS.metrics, "/stats/prometheus", "/stats/prometheus?usedonly", dual),
        _admin_page("ready", PORTS.ready, "/ready", "/ready", dual),
    ]


def _detecting(name: str, port: int, cluster: str, dual: bool, upgrades: Sequence[str]) -> Json:
    """HTTP is handled as HTTP; anything else, and whoever waits for the server to speak first, as TCP."""
    http = {
        "name": "http",
        "filter_chain_match": {
            "transport_protocol": "raw_buffer",
            "application_protocols": ["http/1.0", "http/1.1", "h2c"],
        },
        "filters": [_http(name, cluster, upgrades)],
    }
    return {
        **_redirected(name, port, cluster, dual),
        "listener_filters": [_ORIGINAL_DST, *_INSPECTORS],
        "listener_filters_timeout": "0.5s",
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [*_loop_guards(), http],
    }


def _opaque(name: str, port: int, cluster: str, dual: bool) -> Json:
    """TCP without a look at the first bytes: for protocols in which the server speaks first."""
    return {
        **_redirected(name, port, cluster, dual),
        "listener_filters": [_ORIGINAL_DST],
        "filter_chains": _loop_guards(),
    }


def _redirected(name: str, port: int, cluster: str, dual: bool) -> Json:
    # Connections may be idle for as long as they like; by default they end after an hour.
    tcp = _tcp(name.replace("-", "_"), cluster, idle_timeout="0s", access_log=access_log.tcp(name))
    return {
        "name": name,
        **_addresses(port, dual),
        "traffic_direction": "OUTBOUND" if cluster == PASSTHROUGH else "INBOUND",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "default_filter_chain": {"name": "tcp", "filters": [tcp]},
    }


def _loop_guards() -> list[Json]:
    """Refuses what was sent to a redirecting listener itself: its original destination is Envoy again."""
    return [
        {
            "name": f"loop-guard-{port}",
            "filter_chain_match": {"destination_port": port},
            "filters": [_tcp("loop_guard", BLACKHOLE)],
        }
        for port in PORTS.redirecting
    ]


def _addresses(port: int, dual: bool) -> Json:
    def address(ip: str) -> Json:
        return {"address": {"socket_address": {"address": ip, "port_value": port}}}

    return {**address("0.0.0.0"), **({"additional_addresses": [address("::")]} if dual else {})}  # noqa: S104  pods call


def _tcp(name: str, cluster: str, **options: Any) -> Json:
    return extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=name,
        cluster=cluster,
        **options,
    )


def _http(name: str, cluster: str, upgrades: Sequence[str]) -> Json:
    return extension(
        _HTTP_MANAGER,
        _HTTP_MANAGER_TYPE,
        stat_prefix=name,
        **_TRANSPARENT,
        upgrade_configs=[{"upgrade_type": token} for token in (*upgrades, "CONNECT")],
        access_log=access_log.http(name),
        route_config=_routes(_everything(cluster)),
        # No x-envoy-… headers for applications to depend on.
        http_filters=[_router(suppress_envoy_headers=True)],
    )


_TRANSPARENT: Json = {
    "use_remote_address": False,
    "skip_xff_append": True,
    "preserve_external_request_id": True,
    "server_header_transformation": "PASS_THROUGH",
    "normalize_path": False,
    "merge_slashes": False,
    "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    "proxy_100_continue": True,  # the application decides, not Envoy
    "stream_idle_timeout": "0s",  # five minutes by default; ends long polls and quiet streams
    "max_request_headers_kb": MAX_HEADERS_KB,
    "common_http_protocol_options": {
        "idle_timeout": "3600s",
        "max_headers_count": MAX_HEADERS,
        "headers_with_underscores_action": "ALLOW",
    },
    "http_protocol_options": {
        "accept_http_10": True,
        "default_host_for_http_10": "localhost",  # without a Host, Envoy answers 400
        "enable_trailers": True,
        "header_key_format": PRESERVE_CASE,
    },
    "http2_protocol_options": {"allow_connect": True},
}


def _everything(cluster: str) -> list[Json]:
    """Every request; CONNECT has no path."""
    unhurried = {
        "cluster": cluster,
        "timeout": "0s",  # 15 s by default
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    matches: tuple[Json, ...] = ({"connect_matcher": {}}, {"prefix": "/"})
    return [{"match": match, "route": unhurried} for match in matches]


def _admin_page(name: str, port: int, path: str, target: str, dual: bool) -> Json:
    """One page of the admin interface, for GET only; nothing else of it can be reached from outside."""
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    page = {"match": {"path": path, "headers": [get]}, "route": {"cluster": ADMIN, "prefix_rewrite": target}}
    manager = extension(
        _HTTP_MANAGER,
        _HTTP_MANAGER_TYPE,
        stat_prefix=f"admin_{name}",
        route_config=_routes([page]),
        http_filters=[_router()],
    )
    return {
        "name": name,
        **_addresses(port, dual),
        "bypass_overload_manager": True,  # probes and monitors get through when applications do not
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [manager]}],
    }


def _routes(routes: list[Json]) -> Json:
    return {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]}


def _router(**options: bool) -> Json:
    return extension("envoy.filters.http.router", "filters.http.router.v3.Router", **options)
