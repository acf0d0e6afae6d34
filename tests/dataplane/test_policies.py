"""What a Service's annotations and its own fields do to real traffic: one caller and three replicas, all with sidecars.

No kube-proxy knows the Service: what is answered went to where the control plane says, but where a test sets it up.
"""

import http.client
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from subprocess import CalledProcessError
from typing import Any

import pytest

from controlplane.extensions import Json
from tests import cluster
from tests.apiserver.processes import eventually
from tests.cluster import endpoint, node, slice_of, terminating
from tests.dataplane.lab import Lab, Pod, application, asks, lab, manifest
from tests.dataplane.load import Answer, load
from tests.dataplane.orders import NODE, Orders, caller, requests
from tests.dataplane.services import service as kube_proxy
from tests.dataplane.told import CLUSTER_IP, ControlPlane, replica

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

NAMES = ("one", "two", "three")
ZONE = "eu-1a"  # the caller's, by the label of the Node that its token names
IPV6 = "fd96::1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def pods(place: Lab) -> list[Pod]:
    """Each listens on two ports; at the second one its name is `NAME-other`."""
    return [
        place.pod(
            manifest(
                name,
                replica(name),
                application("replica_app.py", "8081", f"{name}-other", name="other", readinessProbe=asks(8081)),
            )
        )
        for name in NAMES
    ]


@pytest.fixture(scope="module")
def web(place: Lab, pods: list[Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pod, ControlPlane]]:
    with caller(place, pods, tmp_path_factory.mktemp("controlplane")) as made:
        yield made


@pytest.fixture
def orders(web: tuple[Pod, ControlPlane], pods: list[Pod]) -> Orders:
    """All replicas answer at once."""
    made = Orders(*web, pods)
    made.behave()
    return made


# Time


def test_a_request_that_takes_longer_than_the_timeout_is_answered_504_by_then(orders: Orders) -> None:
    orders.are(timeout="300ms")
    assert orders.call()[0] == 200
    orders.behave(milliseconds=5000)
    began = time.monotonic()
    assert orders.call()[0] == 504
    assert time.monotonic() - began < 2


def test_an_attempt_that_takes_too_long_is_made_again_elsewhere(orders: Orders) -> None:
    orders.are(retry_timeout="300ms", eject_after="0", load_balancing="round-robin")
    orders.behave(milliseconds=5000, pods=orders.pods[:1])
    spread = orders.answers(12)
    assert spread.keys() == {"two", "three"}
    assert orders.stat("upstream_rq_per_try_timeout") > 0


def test_a_post_that_takes_too_long_is_not_made_again(orders: Orders) -> None:
    orders.are(retry_timeout="300ms")
    orders.behave(milliseconds=1000)
    once = f"/{time.monotonic()}"
    assert orders.call("POST", once)[0] == 504
    assert requests(orders.pods, once) == 1


def test_an_unused_connection_is_closed_after_the_idle_timeout(orders: Orders) -> None:
    orders.are(idle_timeout="1s")
    assert orders.answers(20).total() == 20
    assert orders.stat("upstream_cx_active") > 0
    eventually(lambda: orders.stat("upstream_cx_active") == 0, "all are closed", seconds=10)
    assert orders.call()[0] == 200


def test_an_endpoint_that_does_not_accept_is_given_up_after_the_connect_timeout(place: Lab, orders: Orders) -> None:
    """And not after a second, which is the default."""
    with suppress(CalledProcessError):  # it is there already
        place.node.run("ip", "route", "add", "blackhole", SILENT)
    orders.are([slice_of("orders", [SILENT])], connect_timeout="2s", retries="0")
    before, began = orders.stat("upstream_cx_connect_timeout"), time.monotonic()
    assert orders.call()[0] == 503
    assert time.monotonic() - began > 1.9
    assert orders.stat("upstream_cx_connect_timeout") == before + 1


SILENT = "10.99.0.1"


def test_tcp_asks_after_that_silence_whether_the_endpoint_is_there(orders: Orders) -> None:
    orders.are(tcp_keepalive="20s")
    assert orders.call()[0] == 200
    to_replicas = [word for ip in orders.ips for word in ("or", "dst", f"{ip}:8080")][1:]
    timers = orders.caller.net.run("ss", "-tnoH", *to_replicas)
    left = [float(seconds) for seconds in re.findall(r"timer:\(keepalive,(\d+(?:\.\d+)?)sec", timers)]
    assert any(10 < seconds <= 20 for seconds in left), timers


# How often


@pytest.mark.parametrize(
    ("annotations", "method", "status", "times"),
    [
        ({"retries": "0"}, "GET", 503, 1),
        ({"retries": "1"}, "GET", 503, 2),
        ({}, "GET", 500, 1),
        ({"retry_on": "5xx"}, "GET", 500, 3),
        ({}, "POST", 503, 1),
        ({"retry_methods": "all"}, "POST", 503, 3),
        ({"retry_budget": "0", "retry_minimum": "0"}, "GET", 503, 1),
        ({"retry_budget": "0", "retry_minimum": "1"}, "GET", 503, 3),
        ({"retry_budget": "99", "retry_minimum": "0"}, "GET", 503, 1),
        ({"retry_budget": "100", "retry_minimum": "0"}, "GET", 503, 3),
    ],
)
def test_a_request_that_fails_everywhere_is_sent_as_often_as_its_author_says(
    orders: Orders, annotations: Any, method: str, status: int, times: int
) -> None:
    orders.are(eject_after="0", **annotations)
    orders.behave(status=status)
    path = f"/{time.monotonic()}"
    assert orders.call(method, path)[0] == status
    assert requests(orders.pods, path) == times


def test_with_an_interval_the_requests_before_count_for_the_budget(orders: Orders) -> None:
    """Without, nothing could be sent again: half of the one request in flight is none."""
    orders.are(eject_after="0", retry_budget="50", retry_minimum="0", retry_interval="1m")
    orders.answers(20)
    orders.behave(status=503)
    path = f"/{time.monotonic()}"
    assert orders.call(path=path)[0] == 503
    assert requests(orders.pods, path) == 3


# Limits


def test_beyond_max_requests_the_next_is_refused_and_the_breaker_is_seen_open(orders: Orders) -> None:
    orders.are(max_requests="2", retries="0")
    orders.behave(milliseconds=1500)
    answered = at_once(orders, 8, lambda: orders.stat("circuit_breakers.default.rq_open") == 1)
    statuses = Counter(one.status for one in answered)
    assert set(statuses) == {200, 503}
    assert statuses[200] in (2, 3)  # two of Envoy's threads may both find room for one more
    eventually(lambda: '"flags":"UO"' in orders.caller.log(), "the access log says why")
    assert orders.stat("upstream_rq_active_overflow") == statuses[503]
    eventually(lambda: orders.stat("circuit_breakers.default.rq_open") == 0, "it closes again")


def test_beyond_max_pending_requests_the_next_does_not_wait_for_a_connection(orders: Orders) -> None:
    orders.are([slice_of("orders", orders.ips[:1])], max_connections="1", max_pending_requests="1", retries="0")
    orders.behave(milliseconds=1500)
    answered = at_once(orders, 8, lambda: orders.stat("circuit_breakers.default.rq_pending_open") == 1)
    statuses = Counter(one.status for one in answered)
    assert set(statuses) == {200, 503}
    assert 2 <= statuses[200] <= 4  # one for each of Envoy's threads, and what waits
    assert orders.stat("upstream_rq_pending_overflow") == statuses[503]


def test_beyond_max_connections_requests_wait_for_one(orders: Orders) -> None:
    orders.are([slice_of("orders", orders.ips[:1])], max_connections="1")
    orders.behave(milliseconds=500)
    answered = at_once(orders, 8, lambda: orders.stat("circuit_breakers.default.cx_open") == 1)
    assert {one.status for one in answered} == {200}
    assert 1 <= orders.stat("upstream_cx_active") <= 2  # each of Envoy's threads has one in any case
    assert max(one.seconds for one in answered) > 3 * 0.5


def at_once(orders: Orders, count: int, seen: Callable[[], bool]) -> list[Answer]:
    """The answers to so many requests that are sent at once, while `seen` becomes true."""
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(load, orders.caller, threads=count, each=1)
        eventually(seen, "the breaker is open", seconds=10)
        return answered.result()


# Which replica


def test_an_endpoint_that_fails_its_health_check_gets_nothing(orders: Orders) -> None:
    orders.behave(status=503, pods=orders.pods[:1])
    orders.are(eject_after="0", retries="0", load_balancing="round-robin")
    assert orders.answers()["503"] > 0
    orders.are(
        eject_after="0", retries="0", load_balancing="round-robin", health_check="/healthz", health_check_interval="1s"
    )
    eventually(lambda: orders.answers(9).keys() == {"two", "three"}, "it is left alone", seconds=20)
    assert orders.answers().keys() == {"two", "three"}
    assert requests(orders.pods[:1], "/healthz") > 0
    orders.behave()
    eventually(lambda: orders.answers(9)["one"] > 0, "it is back", seconds=20)


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
    orders.say(node(NODE, ZONE), node("node-2", "eu-1b"), *zoned(orders, 1), zone=ZONE)
    assert orders.answers().keys() == {"one"}
    orders.say(node(NODE, "eu-1b"), node("node-2", ZONE), *zoned(orders, 1), zone="eu-1b")
    assert orders.answers().keys() == {"two", "three"}
    orders.say(node(NODE, ZONE), node("node-2", "eu-1b"), *zoned(orders, 0), zone=ZONE)
    assert orders.answers().keys() == set(NAMES)


def test_while_all_of_its_zone_fail_a_caller_is_sent_elsewhere(orders: Orders) -> None:
    orders.say(node(NODE, ZONE), node("node-2", "eu-1b"), *zoned(orders, 1), zone=ZONE)
    orders.behave(status=503, pods=orders.pods[:1])
    eventually(lambda: orders.answers(10).keys() <= {"two", "three"}, "the near one is left alone")


def test_a_caller_is_sent_to_its_node_first(orders: Orders) -> None:
    there = [endpoint(ip, hints={"forNodes": [{"name": f"node-{place}"}]}) for place, ip in enumerate(orders.ips)]
    near = cluster.service("orders", clusterIP=CLUSTER_IP, trafficDistribution="PreferSameNode")
    orders.say(node("node-0", ZONE), node(NODE, ZONE), node("node-2", ZONE), near, slice_of("orders", there), zone=ZONE)
    assert orders.answers().keys() == {"two"}


def test_a_local_service_is_called_on_the_node_that_the_callers_token_names(orders: Orders) -> None:
    there = [endpoint(ip, nodeName=where) for ip, where in zip(orders.ips, ("node-2", NODE, "node-2"), strict=True)]
    local = cluster.service("orders", clusterIP=CLUSTER_IP, internalTrafficPolicy="Local")
    orders.say(node(NODE, ZONE), node("node-2", ZONE), local, slice_of("orders", there), zone=ZONE)
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


def test_a_pod_of_a_headless_service_that_was_dialled_is_never_another(orders: Orders) -> None:
    """Also at a port of which the proxy knows another Service, which has the same endpoints."""
    headless = cluster.service("stateful", ports=[8080], clusterIP="None")
    known = cluster.service("known", ports=[8080], clusterIP="10.96.0.9")
    orders.say(headless, slice_of("stateful", orders.ips), known, slice_of("known", orders.ips))
    assert orders.answers(address="10.96.0.9", port=8080, host="known").keys() == set(NAMES)
    for name, ip in zip(NAMES, orders.ips, strict=True):
        for host in ("stateful", f"{name}.stateful", f"{name}.stateful.shop.svc.cluster.local:8080", f"{ip}:8080"):
            assert orders.answers(6, address=ip, port=8080, host=host) == {name: 6}


@pytest.mark.parametrize("host", ["outside", "outside.shop", "example.com", "orders.accounts"])
def test_what_is_no_service_in_view_goes_where_it_was_dialled(place: Lab, orders: Orders, host: str) -> None:
    kube_proxy(place, orders.pods[2:])
    outside = cluster.service("outside", type="ExternalName", externalName="example.com", clusterIP=None)
    there = cluster.service("orders", clusterIP=CLUSTER_IP)
    orders.say(outside, there, slice_of("orders", orders.ips[:2]))
    assert orders.answers().keys() == {"one", "two"}
    assert orders.answers(6, host=host) == {"three": 6}
