"""TCP probes, asked over HTTP: for each request Envoy connects to the application's port, and says whether it could.

A pod that has such probes brings the listener along, on its own address, where the kubelet asks. Whoever else asks
learns whether a probed port is open: no byte passes in either direction. The kubelet's period, thresholds and timeout
stay its author's, which they would not with a health check of Envoy's own between two polls of the kubelet's.
"""

from collections.abc import Mapping

from controlplane.clusters import UNLIMITED
from controlplane.connection_manager import any_host, manager, router
from controlplane.extensions import Json, extension
from controlplane.ports import PORTS

POD_IP = "$(POD_IP)"  # the kubelet's reference to a variable, in the arguments


def static(probes: Mapping[str, int], timeout_seconds: int) -> Json:
    """Listener and clusters for `probes`: the port of the pod that stands behind each path, which begins with `/`.

    `timeout_seconds` is the longest that a connection may take, and that a caller may keep it.
    """
    return {
        "listeners": [_listener(timeout_seconds)],
        "clusters": [_cluster(path, port, timeout_seconds) for path, port in probes.items()],
    }


def _listener(timeout_seconds: int) -> Json:
    pages = manager(
        "admin_probes",
        [any_host([_ROUTE])],
        [_CONNECT, router(suppress_envoy_headers=True)],
        codec_type="HTTP1",
        common_http_protocol_options={"max_stream_duration": f"{timeout_seconds}s"},
    )
    return {
        "name": "probes",
        "address": {"socket_address": {"address": POD_IP, "port_value": PORTS.probes}},
        "bypass_overload_manager": True,
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [pages]}],
    }


def _cluster(path: str, port: int, timeout_seconds: int) -> Json:
    """Named after the path, so that a request's path chooses it."""
    address = {"socket_address": {"address": POD_IP, "port_value": port}}
    return {
        "name": path,
        "type": "STATIC",
        "connect_timeout": f"{timeout_seconds}s",
        "circuit_breakers": UNLIMITED,
        "load_assignment": {
            "cluster_name": path,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


_ROUTE: Json = {
    "match": {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
    "route": {
        "cluster_header": ":path",
        "cluster_not_found_response_code": "NOT_FOUND",
        "timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {"allow_post": True}}],
    },
}
# Envoy makes a bare connection of a POST, and answers 200 once it stands. A body would be sent to the application, past
# whatever guards it. A 204 is whole without one, so that the kubelet need not wait for the application to hang up; what
# that says meanwhile is dropped.
_CONNECT = extension(
    "envoy.filters.http.lua",
    "filters.http.lua.v3.Lua",
    clear_route_cache=False,
    default_source_code={
        "inline_string": """function envoy_on_request(request)
  if request:body() then
    request:respond({[":status"] = "400"}, "")
  else
    request:headers():replace(":method", "POST")
  end
end
function envoy_on_response(response)
  if response:headers():get(":status") == "200" then
    response:headers():replace(":status", "204")
    for chunk in response:bodyChunks() do
      chunk:setBytes("")
    end
  end
end
"""
    },
)
