"""What becomes of a request, by the host it names: a virtual host for each Service in view, or it passes through.

A request is sent again only where that cannot do a thing twice: RFC 9110, section 9.2.2, says which methods are
idempotent; any other is sent again if nobody had begun it, as the sidecar at the other end tells by a header.
"""

from collections.abc import Iterator, Sequence

from controlplane.clusters import PASSTHROUGH
from controlplane.connection_manager import END_OF_OURS, everything, unclaimed
from controlplane.extensions import Json, extension
from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED
from controlplane.xds import scope
from controlplane.xds.clusters import balancing, seconds
from controlplane.xds.mesh import Service

# Of a body, kept until the answer begins, so that it can be sent again; Envoy's default is a connection's, 64 KiB.
# A thousand requests of this size that wait for an answer are 250 MiB: the room that a sidecar has by default.
BODY_BYTES = 256 << 10

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")

# The sidecar at the other end says how long its application takes, which its caller's application never hears.
_MEASURED: Json = {
    **END_OF_OURS,
    "request_headers_to_add": [
        {"header": {"key": ASKS_LOAD, "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    ],
    "response_headers_to_remove": [UNPROCESSED, LOAD_REPORT],
}


def routes(port: int, namespace: str, services: Sequence[Service], domain: str) -> Json:
    """RDS, as callers of that namespace need it.

    Ports in Host headers do not matter: the listener is already that of the port that was dialled.
    """
    return {
        "name": scope.routes_name(port),
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            *_virtual_hosts(port, namespace, services, domain),
            unclaimed(everything(PASSTHROUGH)),
        ],
        "validate_clusters": False,  # clusters come on their own
    }


def hosts(service: Service, namespace: str, domain: str) -> list[str]:
    """The names by which a pod of that namespace knows a Service."""
    name, full = service.key.name, f"{service.key.name}.{service.key.namespace}"
    return [
        *([name] if namespace == service.key.namespace else []),
        full,
        f"{full}.svc",
        f"{full}.svc.{domain}",
        f"{full}.svc.{domain}.",
        *(f"[{ip}]" if ":" in ip else ip for ip in service.addresses),
    ]


def _virtual_hosts(port: int, namespace: str, services: Sequence[Service], domain: str) -> Iterator[Json]:
    taken: set[str] = set()
    for service in services:
        found = service.port(port)
        if found is None or found.protocol == "tcp":
            continue
        # Envoy refuses a host that comes twice, and no object can be trusted with the others.
        domains = [host for host in hosts(service, namespace, domain) if host not in taken]
        taken.update(domains)
        if domains:
            yield {
                "name": f"{service.key}:{port}",
                "domains": domains,
                "routes": _routes(scope.cluster_name(service, found), service),
                **({"request_body_buffer_limit": BODY_BYTES} if service.policy.repeats else {}),
                **(_MEASURED if service.policy.balancing == "latency" else END_OF_OURS),
            }


def _routes(cluster: str, service: Service) -> list[Json]:
    policy = service.policy
    to: Json = {"cluster": cluster, "timeout": seconds(policy.timeout), **_hash_policy(service)}
    if not policy.repeats:
        return [_connect(to), {"match": {"prefix": "/"}, "route": to}]
    repeatable = {**to, "retry_policy": _retry(service, policy.conditions)}
    if policy.retry_methods == "all":
        return [_connect(to), {"match": {"prefix": "/"}, "route": repeatable}]
    careful = {**_retry(service, _UNBEGUN), "retriable_headers": [_IS_UNPROCESSED]}
    return [
        _connect(to),
        {"match": {"prefix": "/", "headers": [_IS_IDEMPOTENT]}, "route": repeatable},
        {"match": {"prefix": "/"}, "route": {**to, "retry_policy": careful}},
    ]


_IS_IDEMPOTENT: Json = {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(IDEMPOTENT)}}}
_IS_UNPROCESSED: Json = {"name": UNPROCESSED, "string_match": {"exact": "true"}}
_UNBEGUN = ("connect-failure", "refused-stream", "reset-before-request", "retriable-headers")


def _connect(to: Json) -> Json:
    return {"match": {"connect_matcher": {}}, "route": to}


def _retry(service: Service, conditions: Sequence[str]) -> Json:
    policy = service.policy
    return {
        "retry_on": ",".join(conditions),
        "num_retries": policy.retries,
        **({"per_try_timeout": seconds(policy.retry_timeout)} if policy.retry_timeout else {}),
        "retry_host_predicate": [_ANOTHER_HOST],
        # One that fails has the fewest requests in flight: of two, three picks of four are that one again.
        "host_selection_retry_max_attempts": 30,
        **({"retry_priority": _ANOTHER_PRIORITY} if service.locality in ("zone", "node") else {}),
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }


_ANOTHER_HOST = extension(
    "envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate"
)


# What is near may be a single endpoint, which is picked again and again before it is ejected.
_ANOTHER_PRIORITY = extension(
    "envoy.retry_priorities.previous_priorities",
    "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    update_frequency=1,
)


def _hash_policy(service: Service) -> Json:
    if balancing(service) != "consistent-hash":
        return {}
    match service.policy.hash_on if service.policy.balancing else ("source-ip", ""):  # the Service's session affinity
        case ("header", name):
            return {"hash_policy": [{"header": {"header_name": name}}]}
        case ("cookie", name):
            return {"hash_policy": [{"cookie": {"name": name, "ttl": "0s"}}]}
        case _:
            return {"hash_policy": [{"connection_properties": {"source_ip": True}}]}
