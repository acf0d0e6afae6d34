"""The static listeners. Traffic passes through them unchanged, whether or not there is a control plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from controlplane import access_log, ingress
from controlplane.clusters import ADMIN, BLACKHOLE, BUFFER_BYTES, INBOUND, PASSTHROUGH
from controlplane.connection_manager import any_host, everything, http_chain, manager, router, transparent, unclaimed
from controlplane.extensions import Json, extension
from controlplane.ports import MARK, PORTS

_ORIGINAL_DST = extension("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
_INSPECTORS = [
    extension("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector"),
    extension("envoy.filters.listener.http_inspector", "filters.listener.http_inspector.v3.HttpInspector"),
]


def static(
    *, dual: bool, upgrades: Sequence[str], tracing: Mapping[str, Any], keeps_source: bool = False
) -> list[Json]:
    """Those of a pod whose traffic is redirected; `dual` also on IPv6. `upgrades` are the Upgrade tokens that pass.

    With `keeps_source`, the application sees its callers' addresses: the listeners of mode tproxy.
    """

    def inbound(listener: Json) -> Json:
        return _keeping_source(listener) if keeps_source else listener

    http = _Http(upgrades, tracing)
    return [
        # A dynamic listener for the port that the application dialled, if there is one, takes the connection over.
        {**_detecting("outbound", PORTS.outbound, PASSTHROUGH, dual, http), "use_original_dst": True},
        inbound(_detecting("inbound", PORTS.inbound, INBOUND, dual, http)),
        # As TCP there, too: nobody has looked for HTTP.
        {**_opaque("opaque-outbound", PORTS.opaque_outbound, PASSTHROUGH, dual), "use_original_dst": True},
        inbound(_opaque("opaque-inbound", PORTS.opaque_inbound, INBOUND, dual)),
        *pages(dual=dual),
    ]


def pages(*, dual: bool) -> list[Json]:
    """Those of every pod: for monitors and the kubelet."""
    return [
        _page(
            "metrics",
            PORTS.metrics,
            dual,
            [_admin("/stats/prometheus", _stats(_METRICS)), _admin("/stats/destinations", _stats(_DESTINATIONS))],
        ),
        _page("ready", PORTS.ready, dual, [_admin("/ready", "/ready"), _admin("/drain", _DRAIN)], [_POST_DRAIN]),
    ]


@dataclass(frozen=True, slots=True)
class _Http:
    """What the listeners that handle HTTP have in common."""

    upgrades: Sequence[str]
    tracing: Mapping[str, Any]

    def manager(self, name: str, cluster: str) -> Json:
        if cluster == PASSTHROUGH:
            return transparent(name, [unclaimed(everything(cluster))], self.upgrades, tracing=self.tracing)
        connect, rest = everything(cluster)
        return transparent(
            name,
            [unclaimed([connect, ingress.measured(rest["route"]), rest])],
            self.upgrades,
            filters=[ingress.REPORT],
            tracing=self.tracing,
            local_reply_config=ingress.LOCAL_REPLIES,
        )


def _detecting(name: str, port: int, cluster: str, dual: bool, http: _Http) -> Json:
    """HTTP is handled as HTTP; anything else, and whoever waits for the server to speak first, as TCP."""
    return {
        **_redirected(name, port, cluster, dual),
        "listener_filters": [_ORIGINAL_DST, *_INSPECTORS],
        "listener_filters_timeout": "0.5s",
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [*_loop_guards(), http_chain(http.manager(name, cluster))],
    }


def _opaque(name: str, port: int, cluster: str, dual: bool) -> Json:
    """TCP without a look at the first bytes: for protocols in which the server speaks first."""
    return {
        **_redirected(name, port, cluster, dual),
        "listener_filters": [_ORIGINAL_DST],
        "filter_chains": _loop_guards(),
    }


def _keeping_source(listener: Json) -> Json:
    """Takes connections by TPROXY, and calls the application from the caller's own address.

    The mark brings the application's answers back here (webhook/redirect.py); it takes NET_ADMIN.
    """
    source = extension("envoy.filters.listener.original_src", "filters.listener.original_src.v3.OriginalSrc", mark=MARK)
    return {**listener, "transparent": True, "listener_filters": [*listener["listener_filters"], source]}


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


# Pages of the admin interface, for GET only; nothing else of it can be reached from outside


def _page(name: str, port: int, dual: bool, routes: Sequence[Json], filters: Sequence[Json] = ()) -> Json:
    pages = manager(f"admin_{name}", [any_host(routes)], [*filters, router()])
    return {
        "name": name,
        **_addresses(port, dual),
        "bypass_overload_manager": True,  # probes and monitors get through when applications do not
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [pages]}],
    }


def _admin(path: str, target: str) -> Json:
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    return {"match": {"path": path, "headers": [get]}, "route": {"cluster": ADMIN, "prefix_rewrite": target}}


def _stats(pattern: str) -> str:
    """The page of those that the pattern finds, which are used."""
    return f"/stats/prometheus?usedonly&filter={quote(pattern, safe='')}"


# All but what Envoy counts of each address that was passed through to: as many as the application calls. RE2 cannot say
# "not"; what it counts of a cluster as a whole begins in no other way with `en`.
_METRICS = r"^([^c]|co|cluster_|cluster\.[^.]+\.([^e]|ex))"
# That, for who wants to know of it, beside the Services that were told: how often each was called.
_DESTINATIONS = r"^cluster\.(passthrough\.endpoint\..*\.rq_total|[^./]+/[^.]+\.upstream_rq_total)$"

# Ends no connection and closes no listener: responses say `connection: close`, or GOAWAY. Any peer may ask for that,
# since a hook comes from the node like other traffic; it costs the pod's callers their keep-alive, and no more.
_DRAIN = "/drain_listeners?graceful&skip_exit&inboundonly"
# The kubelet's hooks are GETs; Envoy's admin interface changes things only when it gets a POST.
_POST_DRAIN = extension(
    "envoy.filters.http.lua",
    "filters.http.lua.v3.Lua",
    clear_route_cache=False,
    default_source_code={
        "inline_string": """function envoy_on_request(request)
  if request:headers():get(":path") == "/drain" then
    request:headers():replace(":method", "POST")
  end
end
"""
    },
)
