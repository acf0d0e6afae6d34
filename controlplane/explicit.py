"""The proxy of a pod in mode none: no rule redirects its traffic, so the application is pointed at this one, by
HTTP_PROXY or by its own configuration.

On loopback only: on any other address it would be an open proxy for every pod. A request goes to the host that it
names, a CONNECT to its port there.
"""

from collections.abc import Sequence

from controlplane import clusters
from controlplane.connection_manager import everything, transparent, unclaimed
from controlplane.extensions import Json, config, extension
from controlplane.ports import PORTS

NAME = "explicit"
MAX_HOSTS = 4096  # names in the cache; the next gets a 503 until one has been idle for five minutes


def listener(*, dual: bool, upgrades: Sequence[str]) -> Json:
    """Port 15002 of 127.0.0.1, and of ::1 if `dual`."""
    addresses = [
        {"address": {"socket_address": {"address": ip, "port_value": PORTS.explicit}}}
        for ip in ("127.0.0.1", *(["::1"] if dual else []))
    ]
    terminate = {"upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    # A request for this port itself would go round for ever.
    loop = {"name": "loop-guard", "domains": [f"*:{PORTS.explicit}"], "routes": [_REFUSED, _REFUSED_CONNECT]}
    resolve = extension(
        "envoy.filters.http.dynamic_forward_proxy",
        "filters.http.dynamic_forward_proxy.v3.FilterConfig",
        dns_cache_config=_cache(dual),
    )
    hosts = [loop, unclaimed(everything(NAME, terminate))]
    return {
        "name": NAME,
        **addresses[0],
        **({"additional_addresses": addresses[1:]} if dual else {}),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [transparent(NAME, hosts, upgrades, filters=[resolve])]}],
    }


def cluster(*, dual: bool, connect_timeout_seconds: int) -> Json:
    """Every host, by its name."""
    return {
        "name": NAME,
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": f"{connect_timeout_seconds}s",
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": config(
                "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                dns_cache_config=_cache(dual),
                allow_insecure_cluster_options=True,  # no certificate is checked: this side speaks no TLS
            ),
        },
        **clusters.transparent(),
    }


_LOOP: Json = {"status": 508, "body": {"inline_string": "this is the sidecar's own port\n"}}
_REFUSED: Json = {"match": {"prefix": "/"}, "direct_response": _LOOP}
_REFUSED_CONNECT: Json = {"match": {"connect_matcher": {}}, "direct_response": _LOOP}


def _cache(dual: bool) -> Json:
    return {"name": NAME, "dns_lookup_family": "ALL" if dual else "V4_ONLY", "max_hosts": MAX_HOSTS}
