"""The static clusters: wherever the connection was going, nowhere, and the admin socket."""

from controlplane.extensions import HTTP_OPTIONS, PRESERVE_CASE, Json, config

PASSTHROUGH = "passthrough"  # egress: the address that the application dialled
INBOUND = "inbound"  # ingress: the application, at the address that the client dialled
BLACKHOLE = "blackhole"
ADMIN = "admin"
ADMIN_SOCKET = "/run/envoy-sidecar/admin.sock"

BUFFER_BYTES = 65536  # per connection and direction; Envoy's default is 1 MiB
MAX_HEADERS = 1000  # Envoy's default is 100
MAX_HEADERS_KB = 256  # Envoy's default is 60

_MOST = 2**32 - 1
# The circuit breakers' defaults would refuse the 1,025th connection.
UNLIMITED: Json = {
    "thresholds": [
        {
            "max_connections": _MOST,
            "max_pending_requests": _MOST,
            "max_requests": _MOST,
            "max_retries": _MOST,
        }
    ]
}


def static(connect_timeout_seconds: int) -> list[Json]:
    """Every static cluster."""
    return [
        {**passing(PASSTHROUGH, connect_timeout_seconds), "track_cluster_stats": {"per_endpoint_stats": True}},
        passing(INBOUND, connect_timeout_seconds),
        {"name": BLACKHOLE, "type": "STATIC", "connect_timeout": "1s"},
        admin(),
    ]


def passing(name: str, connect_timeout_seconds: int = 10) -> Json:
    """One that leads to wherever the connection was going.

    Pooling across connections would send everything to the one pod that kube-proxy picked first; and inbound, it would
    ask an application that takes no more connections over an old one, where its HTTP probe should fail.
    """
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": f"{connect_timeout_seconds}s",
        "cleanup_interval": "60s",
        "connection_pool_per_downstream_connection": True,
        **transparent(),
    }


def transparent() -> Json:
    """What a cluster needs in order to pass what it gets."""
    return {
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": UNLIMITED,
        "typed_extension_protocol_options": http_options("55s"),  # below the 60 s after which many servers close
    }


def http_options(idle_timeout: str, **more: object) -> Json:
    """A cluster's `typed_extension_protocol_options`: the protocol of the caller, header names and trailers as they
    came, and headers as large as a listener takes. `more` are other fields of HttpProtocolOptions.
    """
    return {
        HTTP_OPTIONS: config(
            HTTP_OPTIONS,
            common_http_protocol_options={
                "idle_timeout": idle_timeout,
                "max_headers_count": MAX_HEADERS,
                "max_response_headers_kb": MAX_HEADERS_KB,
            },
            use_downstream_protocol_config={
                "http_protocol_options": {"header_key_format": PRESERVE_CASE, "enable_trailers": True},
                "http2_protocol_options": {"allow_connect": True},
            },
            **more,
        )
    }


def admin() -> Json:
    """The socket of the admin interface."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": ADMIN_SOCKET}}}}
    return {
        "name": ADMIN,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": ADMIN, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
