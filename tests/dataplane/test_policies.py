"""What a Service's annotations do to real requests: how long one may take, how often it is sent, and how many may be
under way. One caller and three replicas, all with sidecars.

No kube-proxy knows the Service: what is answered went to where the control plane says.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from subprocess import CalledProcessError
from typing import Any

import pytest

from tests.apiserver.processes import eventually
from tests.cluster import slice_of
from tests.dataplane.lab import Lab, Pod, manifest
from tests.dataplane.load import Answer, load
from tests.dataplane.orders import Orders, requests
from tests.dataplane.told import replica

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]


@pytest.fixture(scope="module")
def pods(node: Lab) -> list[Pod]:
    return [node.pod(manifest(name, replica(name))) for name in ("one", "two", "three")]


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


def test_an_endpoint_that_does_not_accept_is_given_up_after_the_connect_timeout(node: Lab, orders: Orders) -> None:
    """And not after a second, which is the default."""
    with suppress(CalledProcessError):  # it is there already
        node.node.run("ip", "route", "add", "blackhole", SILENT)
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
        ({}, "GET", 503, 3),
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
