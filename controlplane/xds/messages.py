"""A resource in JSON, made Envoy's message and checked as Envoy would check it, before any proxy sees it."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import msgspec
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
    "extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "extensions.filters.http.on_demand.v3.on_demand_pb2",
    "extensions.filters.http.router.v3.router_pb2",
    "extensions.filters.http.upstream_codec.v3.upstream_codec_pb2",
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
    "extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    "extensions.tracers.opentelemetry.resource_detectors.v3.environment_resource_detector_pb2",
    "extensions.upstreams.http.v3.http_protocol_options_pb2",
):
    import_module(f"envoy.{_name}")


class InvalidResource(Exception):
    """Envoy would refuse it; the message has the path of the field, and the rule."""


def encode(kind: Kind, source: Json) -> bytes:
    """A serialised google.protobuf.Any of that type. Raises InvalidResource."""
    return put_together(kind, [part(kind, text) for text in canonical(kind, source)])


def canonical(kind: Kind, source: Json) -> Iterator[str]:
    """The texts that a resource is made of, one by one, for thousands may be in it: equal ones make equal resources.

    The virtual hosts of routes are on their own: most of them are those of another proxy, or of the moment before.
    """
    hosts: Sequence[Json] = ()
    if kind is Kind.ROUTES:
        hosts, source = source["virtual_hosts"], {key: one for key, one in source.items() if key != "virtual_hosts"}
    yield _text(source)
    yield from (_text({"virtual_hosts": [host]}) for host in hosts)


def _text(source: Json) -> str:
    return msgspec.json.encode(source, order="sorted").decode()  # an eighth of json.dumps' time


def part(kind: Kind, text: str) -> bytes:
    """What such a text says, serialised. Raises InvalidResource."""
    try:
        return _MAKERS[kind](text)
    except (TypeError, ValueError) as error:  # of another type than the field's, or out of its range
        raise InvalidResource(str(error)) from None


def put_together(kind: Kind, parts: Sequence[bytes]) -> bytes:
    """An Any of them: messages in a row are one message, and what is repeated in them is appended."""
    body: bytes = any_pb2.Any(type_url=kind, value=b"".join(parts)).SerializeToString(deterministic=True)
    return body


def _whole(kind: Kind, text: str) -> bytes:
    return _serialised(_parsed(kind, json.loads(text)))


@lru_cache(maxsize=8192)
def _routes(text: str) -> bytes:
    """Most virtual hosts differ in nothing but their names, and those of the clusters that they lead to."""
    source = json.loads(text)
    if "virtual_hosts" not in source:
        return _whole(Kind.ROUTES, text)
    (host,) = source["virtual_hosts"]
    to = [route["route"] for route in host.get("routes", []) if "cluster" in route.get("route", {})]
    clusters = [one["cluster"] for one in to]
    for one in to:
        one["cluster"] = _ANY
    whole: Any = route_pb2.RouteConfiguration()
    whole.CopyFrom(_host_like(json.dumps(host | {"name": _ANY, "domains": [_ANY]})))
    (message,) = whole.virtual_hosts
    message.name, message.domains[:] = host["name"], host.get("domains", [])
    _check(rules.broken_of(message, "name", "domains"))
    leading = [route.route for route in message.routes if route.route.cluster]
    for action, cluster in zip(leading, clusters, strict=True):
        action.cluster = cluster
        _check(rules.broken_of(action, "cluster"))
    return _serialised(whole)


@lru_cache(maxsize=1024)
def _host_like(text: str) -> Message:
    return _parsed(Kind.ROUTES, {"virtual_hosts": [json.loads(text)]})


def _cluster(text: str) -> bytes:
    """Most differ in nothing but their names."""
    source = json.loads(text)
    message: Any = cluster_pb2.Cluster()
    message.CopyFrom(_cluster_like(json.dumps(source | {"name": _ANY})))
    message.name = source["name"]
    _check(rules.broken_of(message, "name"))
    return _serialised(message)


@lru_cache(maxsize=1024)
def _cluster_like(text: str) -> Message:
    """With a field of Envoy 1.40's that the messages at hand do not know: `budget_interval`, a Duration, the third of
    RetryBudget. What a message does not know, it keeps as it came.
    """
    known = json.loads(text)
    limits = known.get("circuit_breakers", {}).get("thresholds", [])
    intervals = [one.get("retry_budget", {}).pop("budget_interval", None) for one in limits]
    message: Any = _parsed(Kind.CLUSTER, known)
    for limit, interval in zip(message.circuit_breakers.thresholds, intervals, strict=True):
        if interval is not None:
            duration = duration_pb2.Duration()
            duration.FromJsonString(interval)
            body = duration.SerializeToString()
            limit.retry_budget.MergeFromString(bytes((3 << 3 | 2, len(body))) + body)
    found: Message = message
    return found


def _endpoints(text: str) -> bytes:
    """Most endpoints differ in nothing but their addresses."""
    source = json.loads(text)
    frame = source | {
        "cluster_name": _ANY,
        "endpoints": [group | {"lb_endpoints": []} for group in source["endpoints"]],
    }
    message: Any = endpoint_pb2.ClusterLoadAssignment()
    like = json.dumps(frame)
    # Thousands of zones, which an author may make up, are a megabyte of which none is like another.
    message.CopyFrom(_endpoints_like(like) if len(like) <= MAX_LIKE else _parsed(Kind.ENDPOINTS, frame))
    message.cluster_name = source["cluster_name"]
    _check(rules.broken_of(message, "cluster_name"))
    for group, known in zip(message.endpoints, source["endpoints"], strict=True):
        for one in known["lb_endpoints"]:
            _add_endpoint(group.lb_endpoints, one)
    return _serialised(message)


def _add_endpoint(endpoints: Any, source: Json) -> None:
    address = source["endpoint"]["address"]["socket_address"]
    known = source["endpoint"] | {"address": {"socket_address": address | _ANYWHERE}}
    message = endpoints.add()
    message.CopyFrom(_endpoint_like(json.dumps(source | {"endpoint": known})))
    socket = message.endpoint.address.socket_address
    socket.address, socket.port_value = address["address"], address["port_value"]
    _check(rules.broken_of(socket, *_ANYWHERE))


@lru_cache(maxsize=1024)
def _endpoints_like(text: str) -> Message:
    return _parsed(Kind.ENDPOINTS, json.loads(text))


@lru_cache(maxsize=1024)
def _endpoint_like(text: str) -> Message:
    whole: Any = _parsed(Kind.ENDPOINTS, {"cluster_name": _ANY, "endpoints": [{"lb_endpoints": [json.loads(text)]}]})
    found: Message = whole.endpoints[0].lb_endpoints[0]
    return found


MAX_LIKE = 16 << 10  # characters of what is remembered as a pattern of endpoints
# In the place of what is not the same in most.
_ANY = "any"
_ANYWHERE = {"address": _ANY, "port_value": 1}


def _serialised(message: Message) -> bytes:
    serialised: bytes = message.SerializeToString(deterministic=True)
    return serialised


def _parsed(kind: Kind, source: Json) -> Message:
    try:
        # As text: of a dict, the parser moves `@type` to the end, and some of them are shared.
        message = json_format.Parse(json.dumps(source), MESSAGES[kind]())
    except json_format.ParseError as error:
        raise InvalidResource(str(error)) from None
    _check(rules.broken(message))
    return message


def _check(problems: Iterator[str]) -> None:
    """Raises InvalidResource with the first."""
    try:
        problem = next(problems, None)
    except rules.UnknownRule as rule:
        problem = f"a rule of Envoy's that is not known here: {rule}"
    if problem is not None:
        raise InvalidResource(problem)


_MAKERS: dict[Kind, Callable[[str], bytes]] = {
    Kind.CLUSTER: _cluster,
    Kind.ENDPOINTS: _endpoints,
    Kind.LISTENER: partial(_whole, Kind.LISTENER),
    Kind.ROUTES: _routes,
}
