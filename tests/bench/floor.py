"""The floor: the least Envoy configuration that carries the same traffic over the same rules, written by hand.

No loop guards, no opaque ports, no access log, no limits, no care for what an application may notice. What ours costs
beyond this is the price of those.
"""

from typing import Any

from controlplane.ports import PORTS

Json = dict[str, Any]
_TYPE = "type.googleapis.com/envoy.extensions."


def _extension(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}{kind}", **fields}}


def _listener(name: str, port: int, cluster: str) -> Json:
    routes = {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [_route(cluster)]}]}
    manager = _extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config=routes,
        http_filters=[_extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "listener_filters": [
            _extension("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
        ],
        "filter_chains": [{"filters": [manager]}],
    }


def _route(cluster: str) -> Json:
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster}}


def _page(name: str, port: int) -> Json:
    listener = _listener(name, port, "admin")
    del listener["listener_filters"]
    return listener


BOOTSTRAP: Json = {
    "admin": {"address": {"pipe": {"path": "/run/envoy-sidecar/admin.sock"}}},
    "static_resources": {
        "listeners": [
            _listener("outbound", PORTS.outbound, "original"),
            _listener("inbound", PORTS.inbound, "original"),
            _page("ready", PORTS.ready),
        ],
        "clusters": [
            {"name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
            {
                "name": "admin",
                "load_assignment": {
                    "cluster_name": "admin",
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {"endpoint": {"address": {"pipe": {"path": "/run/envoy-sidecar/admin.sock"}}}}
                            ]
                        }
                    ],
                },
            },
        ],
    },
}
