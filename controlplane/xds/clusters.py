"""A Service's port as Envoy's cluster: how its endpoints are balanced, limited and left alone when they fail."""

from controlplane.clusters import BUFFER_BYTES, http_options
from controlplane.extensions import Json, extension
from controlplane.headers import UNPROCESSED
from controlplane.xds.mesh import Port, Service
from controlplane.xds.policy import Policy
from controlplane.xds.values import Balancing


def cluster(name: str, service: Service, port: Port, domain: str) -> Json:
    """CDS. `domain` is the cluster's, such as cluster.local."""
    policy = service.policy
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}},
        "connect_timeout": seconds(policy.connect_timeout),
        "load_balancing_policy": {"policies": [{"typed_extension_config": _balancing(service)}]},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": _limits(policy),
        "outlier_detection": _ejection(service),
        "common_lb_config": {
            "healthy_panic_threshold": {"value": _panic_threshold(service)},
            "update_merge_window": "0.2s",
        },
        **({"upstream_connection_options": _keepalive(policy)} if policy.tcp_keepalive else {}),
        "ignore_health_on_host_removal": True,
        **({"health_checks": [_health_check(service, domain)]} if is_asked(policy, port) else {}),
        "typed_extension_protocol_options": _http(policy),
    }


def seconds(milliseconds: int) -> str:
    """A duration in protobuf's JSON."""
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"


def is_asked(policy: Policy, port: Port) -> bool:
    """Whether endpoints of that port are asked for their health: none is asked what it cannot understand."""
    match policy.health_check:
        case "":
            return False
        case "tcp":
            return True
        case "grpc":
            return port.protocol not in ("tcp", "http")
        case _:
            return port.protocol not in ("tcp", "grpc")


def balancing(service: Service) -> Balancing:
    """How an endpoint is chosen: as its author says, or as the Service's session affinity asks."""
    return service.policy.balancing or ("consistent-hash" if service.sticky else "least-request")


def _balancing(service: Service) -> Json:
    match balancing(service):
        case "least-request":
            return _lb("least_request", "LeastRequest", choice_count=2, **_warm_up(service.policy))
        case "round-robin":
            return _lb("round_robin", "RoundRobin", **_warm_up(service.policy))
        case "latency":
            return _lb(
                "client_side_weighted_round_robin",
                "ClientSideWeightedRoundRobin",
                # Long enough for a mean, short enough that a slow one is left alone before many notice.
                blackout_period="1s",
                weight_update_period="0.5s",
                weight_expiration_period="30s",
            )
        case "consistent-hash":
            return _lb("ring_hash", "RingHash", minimum_ring_size=1024)


def _warm_up(policy: Policy) -> Json:
    """Not by default: while a replica warms up, Envoy picks by weights, and least-request then prefers slow ones."""
    return {"slow_start_config": {"slow_start_window": seconds(policy.warm_up)}} if policy.warm_up else {}


def _lb(name: str, message: str, **options: object) -> Json:
    return extension(f"envoy.load_balancing_policies.{name}", f"load_balancing_policies.{name}.v3.{message}", **options)


def _limits(policy: Policy) -> Json:
    return {
        "thresholds": [
            {
                "max_connections": policy.max_connections,
                "max_pending_requests": policy.max_pending_requests,
                "max_requests": policy.max_requests,
                "retry_budget": {
                    "budget_percent": {"value": policy.retry_budget},
                    **({"budget_interval": seconds(policy.retry_interval)} if policy.retry_interval else {}),
                    "min_retry_concurrency": policy.retry_minimum,
                },
                "track_remaining": True,
            }
        ]
    }


def ejected_at_most(service: Service) -> int:
    """The percentage: where a place is preferred, all may go, or its requests stay where everything fails."""
    chosen, is_preferring = service.policy.eject_percent, service.locality in ("zone", "node")
    return chosen if chosen is not None else 100 if is_preferring else 50


def _ejection(service: Service) -> Json:
    """Only what says that nobody is there counts: a 500 is an answer of the application."""
    policy = service.policy
    on = 100 if policy.eject_after else 0
    return {
        "consecutive_gateway_failure": max(policy.eject_after, 1),
        "enforcing_consecutive_gateway_failure": on,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": max(policy.eject_after_connections, 1),
        "enforcing_consecutive_local_origin_failure": on,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "2s",
        "base_ejection_time": seconds(policy.eject_for),
        "max_ejection_time": "300s",
        "max_ejection_percent": ejected_at_most(service),
    }


def _panic_threshold(service: Service) -> int:
    """The percentage of healthy endpoints below which all are tried: it is more likely that the judgement is wrong.

    That is half of them, or what `eject-percent` leaves, if it is less; and never 0: where none is left, all are tried.
    """
    return max(min(50, 100 - ejected_at_most(service)), 1)


def _keepalive(policy: Policy) -> Json:
    time = max(policy.tcp_keepalive // 1000, 1)
    return {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": time, "keepalive_interval": max(time // 3, 1)}}


def _health_check(service: Service, domain: str) -> Json:
    policy = service.policy
    host = f"{service.key.name}.{service.key.namespace}.svc.{domain}"
    match policy.health_check:
        case "tcp":
            how: Json = {"tcp_health_check": {}}
        case "grpc":
            how = {"grpc_health_check": {"authority": host}}
        case path:
            how = {"http_health_check": {"path": path, "host": host}}
    interval = seconds(policy.health_check_interval)
    return {
        "timeout": seconds(min(policy.health_check_interval, 1000)),
        "interval": interval,
        "interval_jitter_percent": 20,
        "no_traffic_interval": "60s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        **how,
    }


def _http(policy: Policy) -> Json:
    filters = {"http_filters": _FILTERS} if policy.repeats and policy.retry_methods != "all" else {}
    return http_options(seconds(policy.idle_timeout), **filters)


# An application without a sidecar may pass on what another's sidecar said to it. So the marker counts only if it names
# the address that was asked. It takes a filter of the cluster: routes cannot compare, and decide on retries before any
# filter of the listener sees the answer.
_FILTERS = [
    extension(
        "unprocessed",
        "filters.http.header_mutation.v3.HeaderMutation",
        mutations={
            "response_mutations": [
                {
                    "append": {
                        "header": {
                            "key": UNPROCESSED,
                            "value": f"%CEL(response.headers['{UNPROCESSED}'] == upstream.address)%",
                        },
                        "append_action": "OVERWRITE_IF_EXISTS",
                    }
                }
            ]
        },
    ),
    extension("envoy.filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec"),
]
