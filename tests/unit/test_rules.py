"""Envoy's own rules for its messages: what it would refuse is refused here, and every kind of rule is known."""

from collections.abc import Iterator
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from google.protobuf import any_pb2, descriptor_pool, json_format
from google.protobuf.descriptor import Descriptor
from validate import validate_pb2

from controlplane.extensions import Json
from controlplane.xds import messages, rules
from controlplane.xds.messages import InvalidResource, encode
from controlplane.xds.snapshot import Kind
from tests.cluster import WEB as CALLER
from tests.cluster import service, slice_of, translated


def broken(message: Any, fields: Json) -> list[str]:
    return list(rules.broken(json_format.ParseDict(fields, message)))


HOST: Json = {"name": "a", "domains": ["a"]}
PIPE: Json = {"address": {"pipe": {"path": "/a"}}}


@pytest.mark.parametrize(
    ("message", "fields", "problem"),
    [
        (route_components_pb2.VirtualHost(), {"domains": ["a"]}, "name: '' breaks the rule min_len 1"),
        (route_components_pb2.VirtualHost(), {"name": "a"}, "domains: is required"),
        (route_components_pb2.VirtualHost(), {**HOST, "domains": ["a\n"]}, "domains[0]: 'a\\n' breaks"),
        (route_components_pb2.Route(), {"route": {"cluster": "a"}}, "match: is required"),
        (route_components_pb2.Route(), {"match": {"prefix": "/"}}, "one of action is required"),
        (route_components_pb2.RouteAction(), {}, "one of cluster_specifier is required"),
        (cluster_pb2.Cluster(), {"name": "a", "connect_timeout": "0s"}, "connect_timeout: 0 breaks the rule gt 0"),
        (cluster_pb2.Cluster(), {"name": ""}, "name: '' breaks the rule min_len"),
        (
            cluster_pb2.Cluster(),
            {"name": "a", "outlier_detection": {"max_ejection_percent": 101}},
            "outlier_detection.max_ejection_percent: 101 breaks the rule lte 100",
        ),
        (endpoint_pb2.ClusterLoadAssignment(), {}, "cluster_name: '' breaks the rule min_len 1"),
        (endpoint_components_pb2.LocalityLbEndpoints(), {"priority": 129}, "priority: 129 breaks the rule lte 128"),
        (address_pb2.SocketAddress(), {"address": "a", "port_value": 65536}, "port_value: 65536 breaks the rule lte"),
        (base_pb2.HeaderValue(), {"key": "a\r\nb: c"}, "key: 'a\\r\\nb: c' breaks the rule"),
        (
            listener_pb2.Listener(),
            {"name": "a", **PIPE, "filter_chains": [{"filters": [{}]}]},
            "filter_chains[0].filters[0].name: '' breaks the rule min_len 1",
        ),
    ],
)
def test_what_envoy_would_refuse_is_named_with_its_path(message: Any, fields: Json, problem: str) -> None:
    assert [said for said in broken(message, fields) if problem in said], broken(message, fields)


def test_a_message_in_an_any_is_looked_into() -> None:
    inner = route_components_pb2.VirtualHost(name="a")
    wrapped = any_pb2.Any()
    wrapped.Pack(inner)
    assert list(rules.broken(wrapped, "typed_config")) == ["typed_config.domains: is required"]


def test_an_any_of_no_known_type_is_refused() -> None:
    assert "no message of type" in next(rules.broken(any_pb2.Any(type_url="type.googleapis.com/no.Such"), "a"))


@pytest.mark.parametrize(
    "source",
    [{"no_such_field": 1}, {"name": 1}, {"connect_timeout": "soon"}, {"typed_extension_protocol_options": {"a": {}}}],
)
def test_json_that_is_no_such_message_is_refused(source: Json) -> None:
    with pytest.raises(InvalidResource):
        encode(Kind.CLUSTER, {"name": "a", "circuit_breakers": {"thresholds": []}, **source})


@pytest.mark.parametrize("limits", [{}, {"circuit_breakers": {}}, {"circuit_breakers": {"thresholds": [{}]}}])
def test_a_cluster_needs_no_limits(limits: Json) -> None:
    assert encode(Kind.CLUSTER, {"name": "a", **limits})


def test_a_route_with_one_bad_host_is_refused() -> None:
    with pytest.raises(InvalidResource, match="domains"):
        encode(Kind.ROUTES, {"name": "a", "virtual_hosts": [HOST, {"name": "b"}]})


def test_routes_that_are_encoded_host_by_host_are_the_same_message() -> None:
    of = translated(service(), service("b", clusterIP="10.96.0.11"), slice_of())
    of.names(Kind.LISTENER, CALLER)
    source = of.source(Kind.ROUTES, "http_80/shop")
    assert source is not None
    body = any_pb2.Any.FromString(encode(Kind.ROUTES, source))
    told = messages.MESSAGES[Kind.ROUTES].FromString(body.value)
    assert told == json_format.ParseDict(source, messages.MESSAGES[Kind.ROUTES]())


def test_what_is_not_known_yet_reaches_envoy_all_the_same() -> None:
    """RetryBudget's `budget_interval` is field 3: in the bytes, of wire type 2."""
    plain, timed = (translated(service(annotations=a)) for a in ({}, {"retry-interval": "7s"}))
    one, other = (of.get(Kind.CLUSTER, "shop/orders:80") for of in (plain, timed))
    assert one is not None
    assert other is not None
    assert b"\x1a\x02\x08\x07" in other.body
    assert b"\x1a\x02\x08\x07" not in one.body


def reachable(descriptor: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        yield descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                yield from reachable(field.message_type, seen)


KNOWN = {"required", "strict", "ignore_empty", "defined_only", "const", "gt", "gte", "lt", "lte", "in", "not_in"} | {
    "min_len", "max_len", "min_bytes", "max_bytes", "pattern", "prefix", "suffix", "well_known_regex",
}  # fmt: skip
ELSEWHERE = {"items", "keys", "values", "min_items", "max_items", "min_pairs", "unique"}  # of fields with many values


def test_every_kind_of_rule_that_these_messages_have_is_known() -> None:
    seen: set[str] = set()
    found: set[str] = set()
    inside = ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",)
    roots = [kind.DESCRIPTOR for kind in messages.MESSAGES.values()]
    roots += [descriptor_pool.Default().FindMessageTypeByName(name) for name in inside]
    for root in roots:
        for descriptor in reachable(root, seen):
            for field in descriptor.fields:
                if field.GetOptions().HasExtension(validate_pb2.rules):
                    found |= names(field.GetOptions().Extensions[validate_pb2.rules])
    assert len(seen) > 200
    assert found <= KNOWN | ELSEWHERE


def names(rules_of_field: Any) -> set[str]:
    """The names of all rules in there, those of items too."""
    found = set()
    for field, value in rules_of_field.ListFields():
        if field.message_type is not None and field.message_type.full_name.startswith("validate."):
            found |= names(value) | ({field.name} & ELSEWHERE)
        else:
            found.add(field.name)
    return found
