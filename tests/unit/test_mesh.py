"""Kubernetes' objects in our words, and what is left out of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.extensions import Json
from controlplane.xds import reading
from controlplane.xds.mesh import Problem, Service, Workload
from controlplane.xds.policy import Policy
from controlplane.xds.world import WHAT, What, World
from tests import cluster
from tests.cluster import addresses, endpoint, endpoints_of, mesh, node, service, slice_of, terminating


def read(raw: Json) -> Service:
    found = reading.service(raw)
    assert isinstance(found, Service), found
    return found


def told(raw: Json) -> list[str]:
    return [problem.message for problem in read(raw).problems]


# Services


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ({"clusterIP": "10.96.0.1"}, "balanced"),
        ({"clusterIP": "None"}, "headless"),
        ({"clusterIP": None, "clusterIPs": ["None"]}, "headless"),
        ({"clusterIP": None}, "balanced"),
        ({"clusterIP": ""}, "balanced"),
        ({"clusterIP": "None", "publishNotReadyAddresses": True}, "headless"),
        ({"type": "ExternalName", "externalName": "example.com", "clusterIP": None}, "external"),
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.1"}, "balanced"),
    ],
)
def test_a_service_is_balanced_unless_its_callers_choose_themselves(spec: Json, form: str) -> None:
    assert read(service(**spec)).form == form


@pytest.mark.parametrize(
    ("spec", "locality"),
    [
        ({}, "any"),
        ({"internalTrafficPolicy": "Cluster"}, "any"),
        ({"internalTrafficPolicy": "Local"}, "node-only"),
        ({"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"}, "node-only"),
        ({"trafficDistribution": "PreferClose"}, "zone"),
        ({"trafficDistribution": "PreferSameZone"}, "zone"),
        ({"trafficDistribution": "PreferSameNode"}, "node"),
    ],
)
def test_where_a_service_wants_its_traffic_kept(spec: Json, locality: str) -> None:
    assert read(service(**spec)).locality == locality


@pytest.mark.parametrize("key", ["topology-mode", "topology-aware-hints"])
def test_the_annotation_for_topology_is_the_older_wish_for_the_zone(key: str) -> None:
    assert read(service(annotations={f"service.kubernetes.io/{key}": "Auto"})).locality == "zone"


@pytest.mark.parametrize(
    ("port", "annotations", "protocol"),
    [
        ({}, {}, "auto"),
        ({"name": "http"}, {}, "http"),
        ({"name": "grpc-orders"}, {}, "grpc"),
        ({"name": "mysql"}, {}, "tcp"),
        ({"name": "httpish"}, {}, "auto"),
        ({"name": "http", "appProtocol": "kubernetes.io/h2c"}, {}, "http"),
        ({"name": "http", "appProtocol": "TCP"}, {}, "tcp"),
        ({"name": "http", "appProtocol": "example.com/own"}, {}, "auto"),
        ({"name": "https"}, {}, "tcp"),
        ({"name": "web", "appProtocol": "kubernetes.io/wss"}, {}, "tcp"),
        ({"name": "http", "appProtocol": "http"}, {"protocol": "tcp"}, "tcp"),
        ({"name": "http"}, {"protocol": "80=tcp"}, "tcp"),
        ({"name": "http"}, {"protocol": "81=tcp"}, "http"),
        ({"name": "http"}, {"protocol": "grpc,80=tcp"}, "tcp"),
    ],
)
def test_a_ports_protocol_is_the_annotations_else_app_protocol_else_its_names(
    port: Json, annotations: dict[str, str], protocol: str
) -> None:
    raw = service(annotations=annotations, ports=[{"port": 80, **port}])
    assert read(raw).ports[0].protocol == protocol


def test_ports_of_other_protocols_are_not_the_sidecars_business() -> None:
    raw = service(
        ports=[{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 9, "protocol": "SCTP"}]
    )
    assert [port.number for port in read(raw).ports] == [53]


@pytest.mark.parametrize(
    ("ports", "kept", "message"),
    [
        ([0, 80], [80], "port 0: not from 1 to 65535"),
        ([80, 65536], [80], "port 65536: not from 1 to 65535"),
        ([-1], [], "port -1: not from 1 to 65535"),
        ([80, 80], [80], "port 80 comes twice: the first is used"),
        ([15001, 80], [80], "port 15001 is the sidecar's own: calls of it pass through"),
    ],
)
def test_a_port_that_cannot_be_called_is_told_and_the_rest_applies(
    ports: list[int], kept: list[int], message: str
) -> None:
    assert [port.number for port in read(service(ports=ports)).ports] == kept
    assert told(service(ports=ports)) == [message]


def test_of_thousands_of_ports_the_first_128_are_used() -> None:
    assert len(read(service(ports=range(1, 5000))).ports) == 128
    assert told(service(ports=range(1, 5000))) == ["more than 128 ports: calls of the others pass through"]


@pytest.mark.parametrize("name", ["", "Orders", "orders.shop", "-", "a" * 64, "ord/ers", "orders:80", "orders\n"])
def test_a_name_that_kubernetes_would_not_take_is_refused(name: str) -> None:
    assert isinstance(reading.service(service(name)), Problem)


def test_a_cluster_ip_that_means_the_pod_itself_is_left_out() -> None:
    assert read(service(clusterIP="127.0.0.1")).addresses == ()
    assert "never called" in told(service(clusterIP="127.0.0.1"))[0]


def test_a_service_whose_cluster_ip_nobody_has_chosen_yet_is_told_with_what_to_do() -> None:
    (problem,) = told(service(clusterIP=None))
    assert problem.startswith("spec.clusterIP is missing")
    assert "kubectl get services -o yaml" in problem


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": None}])
def test_who_needs_no_cluster_ip_is_not_told_that_it_is_missing(spec: Json) -> None:
    assert told(service(**spec)) == []


UNQUOTED: list[Any] = [3, 0.5, False, None, ["3"], {"a": "b"}]


@pytest.mark.parametrize("value", UNQUOTED, ids=map(repr, UNQUOTED))
def test_an_annotation_that_is_no_text_is_told_and_the_rest_applies(value: Any) -> None:
    raw = service(annotations={"retries": value, "timeout": "2s", "example.com/build": value})
    assert read(raw).policy == Policy(timeout=2000)
    why = "the value is no text, as 3 and off are none without quotes: put it in quotes; until then it is ignored"
    assert sorted(told(raw)) == [f"envoy-sidecar.io/retries: {why}", f"example.com/build: {why}"]


def test_of_two_objects_of_one_name_the_last_counts_and_that_is_told_until_there_is_one() -> None:
    """Only files can have two."""
    there, second = World(), service(clusterIP="10.96.0.2")
    there.replace("Service", [service(), service("users"), second])
    found = there.mesh()
    assert [one.addresses for one in found.all_services()] == [("10.96.0.2",), ("10.96.0.10",)]
    assert found.problems == (Problem("Service shop/orders", "is there more than once: the last one counts"),)
    there.replace("Service", [second])
    assert there.mesh().problems == ()


def test_an_annotation_whose_name_is_no_text_is_told_and_the_rest_applies() -> None:
    raw = service(annotations={"timeout": "2s"})
    raw["metadata"]["annotations"][80] = "http"
    assert read(raw).policy == Policy(timeout=2000)
    assert "metadata.annotations: a name is no text" in told(raw)[0]


def test_an_annotation_of_a_pod_that_is_no_text_is_told_and_the_rest_applies() -> None:
    annotations = {"envoy-sidecar.io/exclude-outbound-ports": 5432, "envoy-sidecar.io/upstreams": "orders"}
    found = reading.workload({"metadata": {"name": "web", "annotations": annotations}})
    assert isinstance(found, Workload)
    assert found.upstreams == ("orders",)
    assert "exclude-outbound-ports: the value is no text" in found.problems[0].message


def test_an_annotation_that_is_no_text_takes_nothing_away_from_a_slice_or_a_node() -> None:
    """Nobody looks at them there."""
    found, place = slice_of(), node("n1", "eu")
    for raw in (found, place):
        raw["metadata"]["annotations"] = {"example.com/build": 5}
    assert isinstance(reading.endpoint_slice(found), reading.Slice)
    assert isinstance(reading.node(place), reading.Node)


def test_warming_up_does_nothing_where_callers_are_hashed_by_the_services_session_affinity() -> None:
    assert told(service(sessionAffinity="ClientIP", annotations={"warm-up": "30s"})) == [
        "envoy-sidecar.io/warm-up does nothing with sessionAffinity: ClientIP"
    ]


def test_a_protocol_of_a_port_that_is_not_there_is_told() -> None:
    assert told(service(annotations={"protocol": "80=http,5432=tcp"})) == [
        "envoy-sidecar.io/protocol: there is no TCP port 5432"
    ]


DATABASE: Json = {"port": 5432, "name": "tcp"}
IN_VAIN = {
    "timeout": "2s",
    "retries": "3",
    "max-requests": "7",
    "load-balancing": "latency",
}


@pytest.mark.parametrize(("name", "text"), IN_VAIN.items())
def test_what_does_nothing_over_tcp_is_told_where_no_port_carries_anything_else(name: str, text: str) -> None:
    (problem,) = told(service(ports=[DATABASE], annotations={name: text}))
    assert problem.startswith(f"envoy-sidecar.io/{name}: '{text}' does nothing where every port carries TCP: ")
    assert told(service(ports=[DATABASE, 80], annotations={name: text})) == []


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": None}])
def test_what_does_nothing_at_a_service_that_passes_through_is_told(spec: Json) -> None:
    (problem,) = told(service(annotations={"connect-timeout": "2s"}, **spec))
    assert problem.startswith("envoy-sidecar.io/connect-timeout: '2s' does nothing: ")


@pytest.mark.parametrize(("port", "count"), [("http", 1), ("grpc", 0), ("", 0)])
def test_who_wants_health_to_be_asked_in_a_language_that_no_port_speaks_is_told(port: str, count: int) -> None:
    ports: list[Json] = [{"port": 80, "name": port}, DATABASE]
    assert len(told(service(ports=ports, annotations={"health-check": "grpc"}))) == count


@pytest.mark.parametrize(("hash_on", "count"), [("header:x-user", 1), ("cookie:id", 1), ("source-ip", 0)])
def test_who_wants_tcp_to_be_hashed_on_what_it_does_not_have_is_told(hash_on: str, count: int) -> None:
    asks = {"load-balancing": "consistent-hash", "hash-on": hash_on}
    found = told(service(ports=[DATABASE], annotations=asks))
    assert [("the caller's address is hashed" in one) for one in found] == [True] * count
    assert told(service(ports=[DATABASE, 80], annotations=asks)) == []


# EndpointSlices


def test_endpoints_of_several_slices_are_those_of_all() -> None:
    found = mesh(service(), slice_of(endpoints=["10.0.0.2"]), slice_of(endpoints=["10.0.0.1"], suffix="b"))
    assert addresses(found) == ["10.0.0.1", "10.0.0.2"]


def test_a_pod_in_two_slices_is_one_endpoint_and_ready_if_one_of_them_says_so() -> None:
    found = mesh(service(), slice_of(endpoints=[terminating("10.0.0.1")]), slice_of(suffix="b"))
    (only,) = endpoints_of(found)
    assert only.ready


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({"ready": True}, True),
        ({"ready": None}, True),
        ({}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "terminating": True}, True),
        # publishNotReadyAddresses: the controller calls every endpoint ready
        ({"ready": True, "serving": False, "terminating": True}, True),
    ],
)
def test_an_endpoint_counts_if_it_is_ready_or_is_terminating_and_still_serves(conditions: Json, used: bool) -> None:
    raw = slice_of(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}])
    assert addresses(mesh(service(), raw)) == (["10.0.0.1"] if used else [])


def test_a_named_port_has_the_endpoints_of_that_name() -> None:
    raw = service(ports=[{"name": "http", "port": 80}, {"name": "admin", "port": 81}])
    found = mesh(raw, slice_of(ports=[{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}]))
    ports = {name: [one.port for one in endpoints_of(found, port=name)] for name in ("http", "admin")}
    assert ports == {"http": [8080], "admin": [9000]}


def test_pods_that_give_a_port_another_number_are_called_there() -> None:
    other = slice_of(endpoints=["10.0.0.2"], ports=[{"port": 9090}], suffix="b")
    found = mesh(service(), slice_of(), other)
    assert [one.port for one in endpoints_of(found)] == [8080, 9090]


@pytest.mark.parametrize(
    ("families", "expected"),
    [(["IPv4", "IPv6"], ["10.0.0.1"]), (["IPv6", "IPv4"], ["fd00::1"]), (["IPv6"], ["fd00::1"])],
)
def test_in_a_dual_stack_cluster_the_preferred_family_is_used(families: list[str], expected: list[str]) -> None:
    both = slice_of(), slice_of(endpoints=["fd00::1"], suffix="b", family="IPv6")
    assert addresses(mesh(service(ipFamilies=families), *both)) == expected


def test_the_other_family_is_used_where_the_preferred_one_has_nobody() -> None:
    assert addresses(mesh(service(ipFamilies=["IPv6", "IPv4"]), slice_of())) == ["10.0.0.1"]


def test_a_port_is_served_by_the_other_family_where_the_preferred_one_has_only_others() -> None:
    ports: list[Json] = [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]
    slices = [
        slice_of(ports=[{"port": 8080, "name": "a"}]),
        slice_of(endpoints=["fd00::1"], suffix="b", family="IPv6", ports=[{"port": 8081, "name": "b"}]),
    ]
    found = mesh(service(ports=ports, ipFamilies=["IPv4", "IPv6"]), *slices)
    assert [addresses(found, port=name) for name in ("a", "b")] == [["10.0.0.1"], ["fd00::1"]]


def test_a_service_that_kube_proxy_leaves_to_another_passes_through_and_that_is_told() -> None:
    """Its endpoints may be in a network that no pod reaches."""
    theirs = service()
    theirs["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "multus"}
    (problem,) = mesh(theirs, slice_of()).problems
    assert problem.message.endswith("leaves it to another proxy: it passes through")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "fd00:ec2::254",
        "100.100.100.200",
        "255.255.255.255",
        "64:ff9b::169.254.169.254",
        "64:ff9b::100.100.100.200",
        "2002:7f00:1::",
        "::127.0.0.1",
        "orders.example",
        "10.0.0.1/8",
        "10.0.0",
        "-",
    ],
)
def test_an_endpoint_that_would_be_the_callers_own_pod_or_node_is_refused_and_told(address: str) -> None:
    found = mesh(service(), slice_of(endpoints=[address, "10.0.0.2"]))
    assert addresses(found) == ["10.0.0.2"]
    assert [problem.about for problem in found.problems] == ["EndpointSlice shop/orders-a"]


@pytest.mark.parametrize("address", ["64:ff9b::10.0.0.1", "2002:a00:1::", "fd00::1", "::ffff:10.0.0.1", "192.0.2.7"])
def test_what_an_ipv6_address_holds_is_judged_as_any_other(address: str) -> None:
    assert len(addresses(mesh(service(), slice_of(endpoints=[address], family="IPv6")))) == 1


@pytest.mark.parametrize("port", [0, 65536, -1, None])
def test_a_slices_port_out_of_range_is_refused_and_told(port: int | None) -> None:
    found = mesh(service(), slice_of(ports=[{"port": port}]))
    assert addresses(found) == []
    assert len(found.problems) == 1


def test_a_service_without_a_selector_has_the_endpoints_that_its_author_wrote() -> None:
    assert addresses(mesh(service(selector=None), slice_of(endpoints=["192.0.2.7"]))) == ["192.0.2.7"]


def test_slices_of_names_and_of_nobody_are_not_used() -> None:
    nobodys = slice_of(endpoints=["10.0.0.9"], suffix="b")
    del nobodys["metadata"]["labels"]
    assert addresses(mesh(service(), slice_of(endpoints=["orders.example"], family="FQDN"), nobodys)) == []


def test_a_slice_may_come_before_its_service() -> None:
    assert addresses(mesh(slice_of(), service())) == ["10.0.0.1"]


# Pods and nodes


@pytest.mark.parametrize(
    ("text", "upstreams"),
    [("orders", ("orders",)), (" users.accounts , orders,orders", ("orders", "users.accounts")), ("", None)],
)
def test_what_a_pod_declares(text: str, upstreams: tuple[str, ...] | None) -> None:
    found = reading.workload({"metadata": {"name": "a.b", "annotations": {"envoy-sidecar.io/upstreams": text}}})
    assert isinstance(found, Workload)
    assert (found.upstreams, found.problems) == (upstreams, ())


@pytest.mark.parametrize("text", ["Orders", "a.b.c", ",", "orders:80", ",".join(f"a{n}" for n in range(129))])
def test_a_declaration_that_names_no_services_is_told_and_ignored(text: str) -> None:
    found = reading.workload({"metadata": {"name": "web", "annotations": {"envoy-sidecar.io/upstreams": text}}})
    assert isinstance(found, Workload)
    assert found.upstreams is None
    assert "upstreams" in found.problems[0].message


def test_a_zone_comes_from_the_node() -> None:
    assert mesh(cluster.node("n1", "eu-1a")).zones == {"n1": "eu-1a"}


# Whatever comes


WORDS = ("metadata", "spec", "name", "namespace", "labels", "annotations", "ports", "port", "endpoints", "addresses")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("10.0.0.1"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(what=st.sampled_from(WHAT), raw=ANYTHING)
def test_no_object_whatever_it_holds_ends_the_others(what: What, raw: Any) -> None:
    world = World()
    world.put("Service", service())
    world.put("EndpointSlice", slice_of())
    world.put(what, raw)
    assert addresses(world.mesh()) == ["10.0.0.1"]


@given(spec=st.dictionaries(st.sampled_from(["ports", "clusterIP", "clusterIPs", "ipFamilies", "type"]), ANYTHING))
def test_a_malformed_service_is_told_by_its_name(spec: Json) -> None:
    raw = service()
    raw["spec"] = spec
    found = reading.service(raw)
    assert isinstance(found, Service) or found.about == "Service shop/orders"


def test_an_objects_problem_names_the_field() -> None:
    found = reading.service({**service(), "spec": {"ports": [{"port": "http"}]}})
    assert found == Problem("Service shop/orders", "Expected `int | null`, got `str` - at `$.spec.ports[0].port`")


def test_endpoints_are_told_of_by_pod_and_node() -> None:
    found = mesh(
        service(), slice_of(endpoints=[endpoint(targetRef={"kind": "Pod", "name": "o-1"}, nodeName="n1", zone="eu-1a")])
    )
    (only,) = endpoints_of(found)
    assert (only.pod, only.node, only.zone) == ("o-1", "n1", "eu-1a")
