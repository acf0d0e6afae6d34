"""Resources in JSON become what they say, however much of them was parsed before for others."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage

from controlplane.extensions import Json
from controlplane.xds.annotations import TABLE
from controlplane.xds.messages import MESSAGES, InvalidResource, encode
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Kind
from controlplane.xds.translate import Choices
from tests import static_form
from tests.cluster import WEB, endpoint, node, service, slice_of, translated

KINDS = {"clusters": Kind.CLUSTER, "endpoints": Kind.ENDPOINTS, "listeners": Kind.LISTENER, "routes": Kind.ROUTES}


def resources() -> Iterator[tuple[Kind, Json]]:
    """Of Services with every annotation, in two namespaces and zones, with no, one and many endpoints."""
    objects = [node("n1", "west")]
    for number, row in enumerate(TABLE):
        objects += [
            service(f"s{number}", namespace, {row.name: row.example}, clusterIP=f"10.96.{index}.{number}")
            for index, namespace in enumerate(("shop", "accounts"))
        ]
        many = [endpoint(f"10.0.{number}.{one}", zone=f"z{one % 3}") for one in range(number % 7)]
        objects.append(slice_of(f"s{number}", many))
    told = static_form.resources(translated(*objects, choices=Choices(scope=Scope(default="cluster"))), WEB)
    yield from ((kind, one) for name, kind in KINDS.items() for one in told[name])


def parsed_whole(kind: Kind, source: Json) -> Any:
    known = json.loads(json.dumps(source))
    for limits in known.get("circuit_breakers", {}).get("thresholds", []):
        limits.get("retry_budget", {}).pop("budget_interval", None)  # the messages at hand do not know it
    return json_format.Parse(json.dumps(known, sort_keys=True), MESSAGES[kind]())


def test_what_is_put_together_from_parts_is_what_is_parsed_whole() -> None:
    seen = set()
    for kind, source in resources():
        message: Any = MESSAGES[kind]()
        assert AnyMessage.FromString(encode(kind, source)).Unpack(message)
        message.DiscardUnknownFields()
        assert message == parsed_whole(kind, source), source
        seen.add(kind)
    assert seen == set(Kind)


HOST: Json = {"name": "a", "domains": ["a"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}
ADDRESS: Json = {"address": "10.0.0.1", "port_value": 80}


def of_address(address: Json) -> Json:
    endpoints = [{"endpoint": {"address": {"socket_address": address}}}]
    return {"cluster_name": "a", "endpoints": [{"lb_endpoints": endpoints}]}


def of_host(**fields: Any) -> Json:
    return {"name": "a", "virtual_hosts": [HOST | fields]}


@pytest.mark.parametrize(
    ("kind", "source", "problem"),
    [
        (Kind.CLUSTER, {"name": ""}, "name: "),
        (Kind.ENDPOINTS, {"cluster_name": "", "endpoints": []}, "cluster_name: "),
        (Kind.ENDPOINTS, of_address(ADDRESS | {"port_value": 65536}), "port_value: 65536"),
        (Kind.ENDPOINTS, of_address(ADDRESS | {"address": ""}), "address: "),
        (Kind.ROUTES, of_host(name=""), "name: "),
        (Kind.ROUTES, of_host(domains=[]), "domains: "),
        (Kind.ROUTES, of_host(domains=["a\n"]), "domains"),
        (Kind.ROUTES, of_host(routes=[{"match": {"prefix": "/"}, "route": {"cluster": ""}}]), "cluster: "),
    ],
)
def test_what_differs_from_others_is_checked_each_time(kind: Kind, source: Json, problem: str) -> None:
    with pytest.raises(InvalidResource, match=problem):
        encode(kind, source)


def test_nothing_that_an_endpoint_says_is_lost() -> None:
    source = of_address(ADDRESS | {"protocol": "UDP"})
    source["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = 7
    message: Any = MESSAGES[Kind.ENDPOINTS].FromString(AnyMessage.FromString(encode(Kind.ENDPOINTS, source)).value)
    assert message == parsed_whole(Kind.ENDPOINTS, source)
