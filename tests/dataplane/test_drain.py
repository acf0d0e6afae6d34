"""Draining: the hook of a pod that ends, and the worst that anybody can do with it."""

import socket

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.exchange import Answer, exchange, receive, request
from tests.dataplane.lab import Lab, Pod, application, asks, manifest

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

APP, READY = 8080, 15021
GET = request("GET / HTTP/1.1", "Host: orders")
DRAIN = request("GET /drain HTTP/1.1", "Host: x")


@pytest.fixture(scope="module")
def client(node: Lab) -> Pod:
    return node.pod(manifest("client", application("echo.py", str(APP))), inject=False)


@pytest.fixture
def orders(node: Lab) -> Pod:
    """A pod whose drain period is over after a second."""
    app = application("echo.py", str(APP), readinessProbe=asks(APP))
    return node.pod(manifest("orders", app, annotations={"drain-seconds": "1"}))


def test_until_it_drains_connections_are_kept(orders: Pod, client: Pod) -> None:
    answers = client.call(lambda: twice(orders, b""))
    assert [(answer.status, answer.header("connection")) for answer in answers] == [(200, None), (200, None)]


def test_the_hook_makes_the_next_response_close_its_connection(orders: Pod, client: Pod) -> None:
    answers = client.call(lambda: twice(orders, DRAIN))
    assert [(answer.status, answer.header("connection")) for answer in answers] == [(200, None), (200, b"close")]


def twice(pod: Pod, between: bytes) -> list[Answer]:
    """Two requests over one connection, and another to the hook between them."""
    with socket.create_connection((pod.address["ipv4"], APP), timeout=5) as connection:
        connection.sendall(GET)
        first = receive(connection)
        if between:
            assert exchange(pod.address["ipv4"], READY, between).status == 200
        connection.sendall(GET)
        return [first, receive(connection)]


def test_the_worst_that_a_peer_can_do_is_that_connections_close(orders: Pod, client: Pod) -> None:
    """However often it asks, and long after the drain period: new connections are served.

    The end of that period is all that happens after the first request to drain. What comes after it was looked at for
    eleven minutes too, with periods of 20 and of 600 seconds: the same.
    """
    where = orders.address["ipv4"]
    for _ in range(20):
        assert client.call(lambda: exchange(where, READY, DRAIN)).status == 200

    def over() -> bool:
        page = client.call(lambda: exchange(where, 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x")))
        return b"envoy_server_uptime" in page.body and orders.kubelet.ready() and uptime(page) >= began + 3

    began = uptime(client.call(lambda: exchange(where, 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x"))))
    eventually(over, "three drain periods are over")
    answer = client.call(lambda: exchange(where, APP, GET))
    assert (answer.status, answer.header("connection")) == (200, b"close")
    assert orders.container("envoy-sidecar").exits == []


def uptime(page: Answer) -> int:
    (line,) = (line for line in page.body.splitlines() if line.startswith(b"envoy_server_uptime{}"))
    return int(line.split()[-1])


def test_what_the_application_calls_is_not_drained(orders: Pod, client: Pod) -> None:
    assert client.call(lambda: exchange(orders.address["ipv4"], READY, DRAIN)).status == 200
    answer = orders.call(lambda: exchange(client.address["ipv4"], APP, GET))
    assert (answer.status, answer.header("connection")) == (200, None)


@pytest.mark.parametrize(
    "line",
    [
        "POST /drain",
        "GET /drain?exit",
        "GET /drain/",
        "GET /drain_listeners",
        "POST /drain_listeners",
        "POST /healthcheck/fail",
        "POST /quitquitquit",
        "GET /drain/../quitquitquit",
        "GET /drain%3Fexit",
        "GET /ready/../drain_listeners",
    ],
)
def test_nothing_else_of_the_admin_interface_answers(orders_once: Pod, client: Pod, line: str) -> None:
    where = orders_once.address["ipv4"]
    answer = client.call(lambda: exchange(where, READY, request(f"{line} HTTP/1.1", "Host: x")))
    assert answer.status in (404, 405)


@pytest.fixture(scope="module")
def orders_once(node: Lab) -> Pod:
    return node.pod(manifest("orders", application("echo.py", str(APP))))
