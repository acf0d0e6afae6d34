"""Envoy's HTTP connection manager, made to pass what it gets: what Envoy changes by default is switched off here.

What cannot be stands in the table of `tests/dataplane/limits.py`, which the transparency tests read and the docs show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane import access_log
from controlplane.clusters import MAX_HEADERS, MAX_HEADERS_KB
from controlplane.extensions import PRESERVE_CASE, Json, extension
from controlplane.headers import ASKS_LOAD, UNPROCESSED


def transparent(
    name: str,
    virtual_hosts: Sequence[Json],
    upgrades: Sequence[str],
    *,
    filters: Sequence[Json] = (),
    tracing: Mapping[str, Any] | None = None,
    **options: Any,
) -> Json:
    """A manager for applications' traffic. `upgrades` are the Upgrade tokens that pass, besides CONNECT."""
    return manager(
        name,
        virtual_hosts,
        # No x-envoy-… headers for applications to depend on.
        [*filters, router(suppress_envoy_headers=True)],
        **{**_TRANSPARENT, **(tracing or {}), **options},
        upgrade_configs=[{"upgrade_type": token} for token in (*upgrades, "CONNECT")],
        access_log=access_log.http(name),
    )


def manager(name: str, virtual_hosts: Sequence[Json], filters: Sequence[Json], **options: Any) -> Json:
    """The network filter; `name` is what its metrics are called."""
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config={"virtual_hosts": list(virtual_hosts)},
        http_filters=list(filters),
        **options,
    )


def http_chain(manager: Json) -> Json:
    """The filter chain of connections in clear text on whose first bytes the inspectors have seen HTTP."""
    return {
        "name": "http",
        "filter_chain_match": {
            "transport_protocol": "raw_buffer",
            "application_protocols": ["http/1.0", "http/1.1", "h2c"],
        },
        "filters": [manager],
    }


def any_host(routes: Sequence[Json]) -> Json:
    """The virtual host of every request that no other claims."""
    return {"name": "any", "domains": ["*"], "routes": list(routes)}


def unclaimed(routes: Sequence[Json]) -> Json:
    """The same for applications' traffic: what one sidecar tells another ends here."""
    return {**any_host(routes), **END_OF_OURS}


# No application sends these to another's, nor to a sidecar; routes take what they tell each other from the rest.
END_OF_OURS: Json = {"request_headers_to_remove": [ASKS_LOAD], "response_headers_to_remove": [UNPROCESSED]}


def everything(cluster: str, connect: Mapping[str, Any] | None = None) -> list[Json]:
    """Routes for every request; CONNECT, which has no path, also gets the options `connect`."""
    route = {"cluster": cluster, "timeout": "0s"}  # 15 s by default
    return [
        {"match": {"connect_matcher": {}}, "route": {**route, **(connect or {})}},
        {"match": {"prefix": "/"}, "route": route},
    ]


def router(**options: bool) -> Json:
    """The filter that every manager ends with."""
    return extension("envoy.filters.http.router", "filters.http.router.v3.Router", **options)


_TRANSPARENT: Json = {
    "use_remote_address": False,
    "skip_xff_append": True,
    "generate_request_id": False,
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
