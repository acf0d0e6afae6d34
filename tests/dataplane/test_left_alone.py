"""Which replicas a caller leaves alone: those that failed too often, and those whose health check fails, though they
have failed no request yet. One caller and four replicas, of HTTP and of gRPC; the last one has no sidecar.
"""

import time
from functools import partial
from itertools import count
from typing import Any

import pytest

from tests.apiserver.processes import eventually
from tests.cluster import slice_of
from tests.dataplane import health
from tests.dataplane.lab import Lab, Pod, application, manifest
from tests.dataplane.orders import Orders, requests
from tests.dataplane.told import CLUSTER_IP, admin, replica

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

NAMES = ("one", "two", "three", "bare")
GRPC = 9090


@pytest.fixture(scope="module")
def pods(node: Lab) -> list[Pod]:
    def document(name: str) -> dict[str, object]:
        listens = {"tcpSocket": {"port": GRPC}}
        grpc = application("grpc_replica_app.py", f"{GRPC}", name, name="grpc", readinessProbe=listens)
        return manifest(name, replica(name), grpc)

    return [node.pod(document(name), inject=name != "bare") for name in NAMES]


# A cluster of its own for each test, of which nobody is left alone for what another test did.
_LIMITS = count(100_000)
# Every failure is seen, every replica asked.
PLAINLY: dict[str, Any] = {"retries": "0", "load_balancing": "round-robin"}
CHECKED: dict[str, Any] = {**PLAINLY, "eject_after": "0", "health_check_interval": "1s"}


def anew(orders: Orders, *, port: int = 8080, **annotations: Any) -> None:
    """The same Service, with nothing remembered."""
    limit = f"{next(_LIMITS)}"
    orders.are([slice_of("orders", orders.ips, ports=[{"port": port}])], max_requests=limit, **annotations)


def asked(orders: Orders) -> set[str]:
    """Which replicas get requests, of forty."""
    path = f"/{time.monotonic()}"
    orders.answers(40, path=path)
    return {name for name, pod in zip(NAMES, orders.pods, strict=True) if requests([pod], path)}


# Of those that fail


@pytest.mark.parametrize(("percent", "alone"), [("24", 0), ("25", 1), ("50", 2), ("75", 3)])
def test_of_four_replicas_of_which_three_fail_that_share_is_left_alone(
    orders: Orders, percent: str, alone: int
) -> None:
    anew(orders, **PLAINLY, eject_percent=percent, eject_for="5m", eject_after="2")
    orders.behave(503, pods=orders.pods[:3])
    eventually(lambda: len(asked(orders)) == len(NAMES) - alone, "so many are left alone", seconds=5)
    left = asked(orders)
    assert len(left) == len(NAMES) - alone
    assert "bare" in left
    assert orders.stat("outlier_detection.ejections_active") == alone


def test_where_all_may_be_left_alone_and_fail_all_are_asked(orders: Orders) -> None:
    anew(orders, **PLAINLY, eject_percent="100", eject_for="5m", eject_after="2")
    orders.behave(503)
    asked(orders)
    eventually(lambda: asked(orders) == set(NAMES), "all are asked", seconds=5)
    assert orders.stat("outlier_detection.ejections_active") == len(NAMES)


def test_a_replica_is_left_alone_after_that_many_failures_and_for_that_long(orders: Orders) -> None:
    anew(orders, **PLAINLY, eject_after="3", eject_for="1s")
    orders.behave(503, pods=orders.pods[:1])
    began = time.monotonic()
    assert orders.answers()["503"] == 3
    orders.behave()
    eventually(lambda: orders.answers(8)["one"] > 0, "it is back")
    assert time.monotonic() - began < 8  # by default, it would be ten seconds


# Of those that are not well


def test_a_replica_that_fails_its_health_check_gets_nothing_before_it_failed_a_request(orders: Orders) -> None:
    anew(orders, **CHECKED, health_check="/healthz")
    assert orders.answers().keys() == set(NAMES)
    orders.behave(503, pods=orders.pods[:1])
    eventually(partial(is_ailing, orders, 0), "that is noticed")
    assert orders.answers().keys() == {"two", "three", "bare"}
    orders.behave()
    eventually(lambda: orders.answers(8)["one"] > 0, "it is back")


def is_ailing(orders: Orders, number: int, port: int = 8080) -> bool:
    """Whether the caller takes that replica for ailing, by its health check."""
    flags = f"shop/orders:80::{orders.ips[number]}:{port}::health_flags::"
    return any(
        line.startswith(flags) and "failed_active_hc" in line for line in admin(orders.caller, "/clusters").splitlines()
    )


def test_each_replica_is_asked_as_often_as_its_author_says(orders: Orders) -> None:
    anew(orders, **CHECKED, health_check="/healthz")
    orders.answers(1)
    before = requests(orders.pods[:1], "/healthz")
    eventually(lambda: requests(orders.pods[:1], "/healthz") >= before + 2, "twice, in less than 5 s", seconds=4)


def test_a_replica_that_comes_gets_nothing_before_it_has_passed_its_health_check(orders: Orders) -> None:
    orders.behave(503, pods=orders.pods[:1])
    annotations = {**CHECKED, "health_check": "/healthz", "max_requests": f"{next(_LIMITS)}"}
    orders.are([slice_of("orders", orders.ips[1:])], **annotations)
    assert orders.answers(10).keys() == {"two", "three", "bare"}
    orders.are(**annotations)
    assert orders.answers().keys() == {"two", "three", "bare"}
    orders.behave()
    eventually(lambda: orders.answers(8)["one"] > 0, "it is there")


def test_a_replica_that_says_over_grpc_that_it_does_not_serve_is_not_called(orders: Orders) -> None:
    anew(orders, port=GRPC, **CHECKED, protocol="grpc", health_check="grpc")
    assert called(orders) == set(NAMES)
    tell(orders.pods[0], "Ail")
    eventually(partial(is_ailing, orders, 0, GRPC), "that is noticed")
    assert called(orders) == {"two", "three", "bare"}
    tell(orders.pods[0], "Recover")
    eventually(lambda: "one" in called(orders, 8), "it is back")


def called(orders: Orders, number: int = 30) -> set[str]:
    """Who answers so many calls over gRPC; all are answered."""

    def call() -> str:
        answer = health.call(CLUSTER_IP, 80, "/Replica/Name")
        assert answer is not None
        return answer.decode()

    return {orders.caller.call(call) for _ in range(number)}


def tell(pod: Pod, what: str) -> None:
    assert pod.call(lambda: health.call("127.0.0.1", GRPC, f"/Replica/{what}")) == b""


def test_a_replica_that_accepts_no_connection_fails_a_check_by_tcp(orders: Orders) -> None:
    refusing = ["INPUT", "-i", "eth0", "-p", "tcp", "--dport", "8080", "-j", "REJECT"]
    anew(orders, **CHECKED, health_check="tcp")
    assert orders.answers().keys() == set(NAMES)
    before = orders.stat("upstream_cx_connect_fail")
    orders.pods[3].net.run("iptables-nft", "-A", *refusing)
    eventually(partial(is_ailing, orders, 3), "that is noticed")
    assert orders.answers().keys() == {"one", "two", "three"}
    assert orders.stat("upstream_cx_connect_fail") == before
    orders.pods[3].net.run("iptables-nft", "-D", *refusing)
    eventually(lambda: orders.answers(8)["bare"] > 0, "it is back")


def test_where_more_than_half_fail_their_health_check_it_is_not_believed(orders: Orders) -> None:
    anew(orders, **CHECKED, health_check="/healthz")
    assert asked(orders) == set(NAMES)
    orders.behave(503, pods=orders.pods[:3])
    eventually(lambda: all(is_ailing(orders, number) for number in range(3)), "that is noticed")
    eventually(lambda: asked(orders) == set(NAMES), "all are asked", seconds=5)
