"""A resource in JSON, made Envoy's message and checked as Envoy would check it, before any proxy sees it."""

import copy
import json
from functools import lru_cache
from importlib import import_module
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import any_pb2, duration_pb2, json_format
from google.protobuf.message import Message

from controlplane.extensions import Json
from controlplane.xds import rules
from controlplane.xds.snapshot import Kind

MESSAGES: dict[Kind, type[Message]] = {
    Kind.CLUSTER: cluster_pb2.Cluster,
    Kind.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    Kind.LISTENER: listener_pb2.Listener,
    Kind.ROUTES: route_pb2.RouteConfiguration,
}


# Messages that stand in an Any are known once their modules are imported.
for _name in (
    "config.trace.v3.opentelemetry_pb2",
    "extensions.access_loggers.stream.v3.stream_pb2",
    "extensions.filters.http.router.v3.router_pb2",
    "extensions.filters.listener.http_inspector.v3.http_inspector_pb2",
    "extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "extensions.http.header_formatters.preserve_case.v3.preserve_case_pb2",
    "extensions.load_balancing_policies.client_side_weighted_round_robin.v3.client_side_weighted_round_robin_pb2",
    "extensions.load_balancing_policies.least_request.v3.least_request_pb2",
    "extensions.load_balancing_policies.ring_hash.v3.ring_hash_pb2",
    "extensions.load_balancing_policies.round_robin.v3.round_robin_pb2",
    "extensions.request_id.uuid.v3.uuid_pb2",
    "extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "extensions.tracers.opentelemetry.resource_detectors.v3.environment_resource_detector_pb2",
    "extensions.upstreams.http.v3.http_protocol_options_pb2",
):
    import_module(f"envoy.{_name}")


class InvalidResource(Exception):
    """Envoy would refuse it; the message has the path of the field, and the rule."""


def encode(kind: Kind, source: Json) -> bytes:
    """A serialised google.protobuf.Any of that type. Raises InvalidResource."""
    match kind:
        case Kind.ROUTES:
            value = _routes(source)
        case Kind.CLUSTER:
            value = _cluster(source)
        case _:
            value = _checked(kind, source)
    body: bytes = any_pb2.Any(type_url=kind, value=value).SerializeToString(deterministic=True)
    return body


def _routes(source: Json) -> bytes:
    """The virtual hosts one by one: most of them are those of another proxy, or of the moment before."""
    rest = {key: value for key, value in source.items() if key != "virtual_hosts"}
    hosts = (_host(json.dumps(host, sort_keys=True)) for host in source["virtual_hosts"])
    # Messages in a row are one message: what is repeated in them is appended.
    return b"".join((_checked(Kind.ROUTES, rest), *hosts))


@lru_cache(maxsize=8192)
def _host(text: str) -> bytes:
    return _checked(Kind.ROUTES, {"virtual_hosts": [json.loads(text)]})


def _cluster(source: Json) -> bytes:
    """With a field of Envoy 1.40's that the messages at hand do not know: `budget_interval`, a Duration, the third of
    RetryBudget. What a message does not know, it keeps as it came."""
    known = copy.deepcopy(source)
    limits = known.get("circuit_breakers", {}).get("thresholds", [])
    intervals = [one.get("retry_budget", {}).pop("budget_interval", None) for one in limits]
    message: Any = _parsed(Kind.CLUSTER, known)
    for limit, interval in zip(message.circuit_breakers.thresholds, intervals, strict=True):
        if interval is not None:
            duration = duration_pb2.Duration()
            duration.FromJsonString(interval)
            body = duration.SerializeToString()
            limit.retry_budget.MergeFromString(bytes((3 << 3 | 2, len(body))) + body)
    serialised: bytes = message.SerializeToString(deterministic=True)
    return serialised


def _checked(kind: Kind, source: Json) -> bytes:
    serialised: bytes = _parsed(kind, source).SerializeToString(deterministic=True)
    return serialised


def _parsed(kind: Kind, source: Json) -> Message:
    try:
        # As text: of a dict, the parser moves `@type` to the end, and some of them are shared.
        message = json_format.Parse(json.dumps(source), MESSAGES[kind]())
    except json_format.ParseError as error:
        raise InvalidResource(str(error)) from None
    try:
        problem = next(rules.broken(message), None)
    except rules.UnknownRule as rule:
        problem = f"a rule of Envoy's that is not known here: {rule}"
    if problem is not None:
        raise InvalidResource(problem)
    return message
