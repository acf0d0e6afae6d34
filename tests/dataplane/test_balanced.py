"""To which replica a request goes, and what goes to where it was dialled. One caller and three replicas, all with
sidecars.

No kube-proxy knows the Service: what is answered went to where the control plane says, but where a test sets it up.
"""

import http.client
import time
from collections import Counter
from contextlib import closing

import pytest

from controlplane.extensions import Json
from tests import cluster
from tests.apiserver.processes import eventually
from tests.cluster import endpoint, slice_of, terminating
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.load import load
from tests.dataplane.orders import NODE, Orders
from tests.dataplane.services import service as kube_proxy
from tests.dataplane.told import CLUSTER_IP, replica

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

NAMES = ("one", "two", "three")
ZONE = "eu-1a"  # the caller's, by the label of the Node that its token names
IPV6 = "fd96::1"


@pytest.fixture(scope="module")
def pods(node: Lab) -> list[Pod]:
    """Each listens on two ports; at the second one its name is `NAME-other`."""
    return [
        node.pod(
            manifest(
                name,
                replica(name),
                application("replica_app.py", "8081", f"{name}-other", name="other", readinessProbe=asks(8081)),
            )
        )
        for name in NAMES
    ]


# Which replica


def test_by_turns_each_gets_the_same(orders: Orders) -> None:
    """Over one connection, which one of Envoy's threads serves: each of them takes turns by itself."""
    orders.are(load_balancing="round-robin")
    spread = Counter(answer.body for answer in load(orders.caller, threads=1, each=30))
    assert spread == dict.fromkeys(NAMES, 10)


def test_a_new_endpoint_gets_less_than_its_share_while_it_warms_up(orders: Orders) -> None:
    orders.are([slice_of("orders", orders.ips[:2])], warm_up="5s")
    known = time.monotonic()
    eventually(lambda: time.monotonic() > known + 5, "the others are warm")
    orders.are(warm_up="5s")
    assert share_of_three(orders) < 8  # a tenth of what another one gets, at first, and not a third of all
    eventually(lambda: share_of_three(orders) > 12, "it is warm as well")


def share_of_three(orders: Orders) -> int:
    """How many of sixty requests it gets."""
    return Counter(answer.body for answer in load(orders.caller, threads=2, each=30))["three"]


def test_a_caller_that_returns_its_cookie_stays_at_its_replica(orders: Orders) -> None:
    orders.are(load_balancing="consistent-hash", hash_on="cookie:session")
    first = {}
    for _ in range(20):
        cookie, body = with_cookie(orders, "")
        assert cookie.startswith("session=")
        assert [with_cookie(orders, cookie) for _ in range(5)] == [("", body)] * 5
        first[body] = cookie
    assert first.keys() == set(NAMES)


def with_cookie(orders: Orders, cookie: str) -> tuple[str, str]:
    """The cookie that is set, and who answers."""

    def ask() -> tuple[str, str]:
        with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=10)) as connection:
            connection.request("GET", "/", headers={"Host": "orders", **({"Cookie": cookie} if cookie else {})})
            with connection.getresponse() as response:
                return (response.getheader("Set-Cookie") or "").partition(";")[0], response.read().decode()

    return orders.caller.call(ask)


def test_session_affinity_keeps_a_pod_at_its_replica(orders: Orders) -> None:
    orders.are(spec={"sessionAffinity": "ClientIP"})
    assert len(orders.answers()) == 1


ZONED: Json = {"trafficDistribution": "PreferSameZone"}
NEAR: Json = {"hints": {"forZones": [{"name": ZONE}]}, "zone": ZONE}
FAR: Json = {"hints": {"forZones": [{"name": "eu-1b"}]}, "zone": "eu-1b"}


def zoned(orders: Orders, near: int) -> list[Json]:
    """The first so many replicas are in the zone ZONE."""
    there = [endpoint(ip, **(NEAR if number < near else FAR)) for number, ip in enumerate(orders.ips)]
    return [cluster.service("orders", clusterIP=CLUSTER_IP, **ZONED), slice_of("orders", there)]


def test_a_caller_is_sent_to_the_zone_of_the_node_that_its_token_names(orders: Orders) -> None:
    """And to the other one as soon as its own has nothing, or its node's label says otherwise."""
    orders.say(cluster.node(NODE, ZONE), cluster.node("node-2", "eu-1b"), *zoned(orders, 1), zone=ZONE)
    assert orders.answers().keys() == {"one"}
    orders.say(cluster.node(NODE, "eu-1b"), cluster.node("node-2", ZONE), *zoned(orders, 1), zone="eu-1b")
    assert orders.answers().keys() == {"two", "three"}
    orders.say(cluster.node(NODE, ZONE), cluster.node("node-2", "eu-1b"), *zoned(orders, 0), zone=ZONE)
    assert orders.answers().keys() == set(NAMES)


def test_while_all_of_its_zone_fail_a_caller_is_answered_elsewhere_from_the_first_request_on(orders: Orders) -> None:
    orders.say(cluster.node(NODE, ZONE), cluster.node("node-2", "eu-1b"), *zoned(orders, 1), zone=ZONE)
    orders.behave(status=503, pods=orders.pods[:1])
    before = orders.stat("upstream_rq_retry")
    assert orders.answers(1).keys() <= {"two", "three"}
    assert orders.stat("upstream_rq_retry") > before
    eventually(lambda: orders.answers(10).keys() <= {"two", "three"}, "the near one is left alone")


def test_when_both_of_its_zone_fail_both_are_left_alone(orders: Orders) -> None:
    """They are more than half of all, and one of them would go on to get most of what is sent."""

    def ejected() -> int:
        assert orders.answers(10) == {"three": 10}
        return orders.stat("outlier_detection.ejections_active")

    orders.say(cluster.node(NODE, ZONE), cluster.node("node-2", "eu-1b"), *zoned(orders, 2), zone=ZONE)
    orders.behave(status=503, pods=orders.pods[:2])
    eventually(lambda: ejected() == 2, "both are left alone")


def test_a_caller_is_sent_to_its_node_first(orders: Orders) -> None:
    there = [endpoint(ip, hints={"forNodes": [{"name": f"node-{place}"}]}) for place, ip in enumerate(orders.ips)]
    near = cluster.service("orders", clusterIP=CLUSTER_IP, trafficDistribution="PreferSameNode")
    orders.say(
        cluster.node("node-0", ZONE),
        cluster.node(NODE, ZONE),
        cluster.node("node-2", ZONE),
        near,
        slice_of("orders", there),
        zone=ZONE,
    )
    assert orders.answers().keys() == {"two"}


def test_a_local_service_is_called_on_the_node_that_the_callers_token_names(orders: Orders) -> None:
    there = [endpoint(ip, nodeName=where) for ip, where in zip(orders.ips, ("node-2", NODE, "node-2"), strict=True)]
    local = cluster.service("orders", clusterIP=CLUSTER_IP, internalTrafficPolicy="Local")
    orders.say(cluster.node(NODE, ZONE), cluster.node("node-2", ZONE), local, slice_of("orders", there), zone=ZONE)
    assert orders.answers().keys() == {"two"}


def test_a_terminating_endpoint_gets_nothing_new_while_another_is_ready(orders: Orders) -> None:
    one, two, three = orders.ips
    orders.are([slice_of("orders", [terminating(one), terminating(two), three])])
    assert orders.answers().keys() == {"three"}
    orders.are([slice_of("orders", [terminating(one), terminating(two), terminating(three, serving=False)])])
    assert orders.answers().keys() == {"one", "two"}


def test_what_is_published_although_it_is_not_ready_is_called(orders: Orders) -> None:
    """The slices of a Service with publishNotReadyAddresses call ready whoever does not serve yet."""
    unready = {"addresses": [orders.ips[0]], "conditions": {"ready": True, "serving": False, "terminating": False}}
    orders.are([slice_of("orders", [unready])], spec={"publishNotReadyAddresses": True})
    assert orders.answers(5) == {"one": 5}


# Ports and addresses


def test_a_port_has_the_number_that_each_slice_gives_its_name(orders: Orders) -> None:
    one, two, _ = orders.ips
    ports = [{"name": "web", "port": 80, "targetPort": "web"}, {"name": "other", "port": 81, "targetPort": "other"}]
    numbers = {"web": 8080, "other": 8081}
    slices = [
        slice_of("orders", [one], ports=[{"name": name, "port": port} for name, port in numbers.items()], suffix="a"),
        slice_of("orders", [two], ports=[{"name": "web", "port": 8081}], suffix="b"),
    ]
    orders.are(slices, spec={"ports": ports})
    assert orders.answers().keys() == {"one", "two-other"}
    assert orders.answers(5, port=81).keys() == {"one-other"}


def test_a_service_of_both_families_is_balanced_at_either_address(orders: Orders) -> None:
    ipv6 = [pod.address["ipv6"] for pod in orders.pods]
    slices = [slice_of("orders", orders.ips, suffix="a"), slice_of("orders", ipv6, suffix="b", family="IPv6")]
    both = {"clusterIPs": [CLUSTER_IP, IPV6], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    orders.are(slices, spec=both)
    for address in (CLUSTER_IP, IPV6):
        for host in ("orders", f"[{address}]" if ":" in address else address):
            assert orders.answers(address=address, host=host).keys() == set(NAMES)


def test_a_port_that_its_author_calls_tcp_goes_by_the_address_whatever_is_said_over_it(orders: Orders) -> None:
    orders.are(protocol="tcp")
    assert orders.call(host="example.com")[0] == 200
    assert orders.answers(host="example.com").keys() == set(NAMES)


def test_a_port_that_its_author_calls_http_is_balanced_by_request_whatever_its_name(orders: Orders) -> None:
    named = [{"name": "mysql", "port": 80}]
    orders.are(
        [slice_of("orders", orders.ips, ports=[{"name": "mysql", "port": 8080}])], {"ports": named}, protocol="80=http"
    )
    assert {answer.body for answer in load(orders.caller, threads=1, each=30)} == set(NAMES)


# What is not balanced


def test_a_connection_of_tcp_that_nobody_accepts_is_tried_three_times(orders: Orders) -> None:
    orders.are([slice_of("orders", ["10.77.0.254"])], protocol="tcp")
    before = orders.stat("upstream_cx_connect_fail")
    with pytest.raises(OSError):  # noqa: PT011  refused or reset, and no more is known
        orders.call()
    assert orders.stat("upstream_cx_connect_fail") == before + 3


def test_a_pod_of_a_headless_service_that_was_dialled_is_never_another(orders: Orders) -> None:
    """Also at a port of which the proxy knows another Service, which has the same endpoints."""
    headless = cluster.service("stateful", ports=[8080], clusterIP="None")
    known = cluster.service("known", ports=[8080], clusterIP="10.96.0.9")
    orders.say(headless, slice_of("stateful", orders.ips), known, slice_of("known", orders.ips))
    assert orders.answers(address="10.96.0.9", port=8080, host="known").keys() == set(NAMES)
    for name, ip in zip(NAMES, orders.ips, strict=True):
        for host in ("stateful", f"{name}.stateful", f"{name}.stateful.shop.svc.cluster.local:8080", f"{ip}:8080"):
            assert orders.answers(6, address=ip, port=8080, host=host) == {name: 6}


def test_a_request_is_for_the_service_that_its_host_names_whatever_address_was_dialled(orders: Orders) -> None:
    orders.are()
    assert orders.answers(address="10.96.0.99").keys() == set(NAMES)


@pytest.mark.parametrize("host", ["outside", "outside.shop", "example.com", "orders.accounts"])
def test_what_is_no_service_in_view_goes_where_it_was_dialled(node: Lab, orders: Orders, host: str) -> None:
    kube_proxy(node, orders.pods[2:])
    outside = cluster.service("outside", type="ExternalName", externalName="example.com", clusterIP=None)
    there = cluster.service("orders", clusterIP=CLUSTER_IP)
    orders.say(outside, there, slice_of("orders", orders.ips[:2]))
    assert orders.answers().keys() == {"one", "two"}
    assert orders.answers(6, host=host) == {"three": 6}
