"""Mode none: no rules and no privileges; the application is pointed at the sidecar's own proxy, on loopback."""

import pytest

from tests.dataplane.dns import dns
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.network import LOOPBACK, Family

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

PROXY = 15002
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def orders(node: Lab) -> Pod:
    return node.pod(manifest("orders", application("echo.py", "8080", readinessProbe=asks(8080))), inject=False)


@pytest.fixture(scope="module")
def web(node: Lab, orders: Pod) -> Pod:
    """A pod in mode none, in a namespace where PodSecurity allows no other."""
    names = [
        {"ip": orders.address["ipv4"], "hostnames": ["orders", "orders4"]},
        {"ip": orders.address["ipv6"], "hostnames": ["orders6"]},
    ]
    written = manifest("web", application("echo.py", "8080"), annotations={"mode": "none"}, hostAliases=names)
    return node.pod(written, level="restricted")


@families
def test_the_host_that_a_request_names_is_asked(web: Pod, family: Family) -> None:
    sent = request("GET /a/../b HTTP/1.1", "Host: orders:8080", "X-MiXeD: 1")
    answer = web.call(lambda: exchange(LOOPBACK[family], PROXY, sent))
    assert answer.received == sent


def test_the_absolute_form_names_the_host(web: Pod) -> None:
    sent = request("GET http://orders:8080/a HTTP/1.1", "Host: orders:8080")
    answer = web.call(lambda: exchange("127.0.0.1", PROXY, sent))
    assert answer.received == request("GET /a HTTP/1.1", "Host: orders:8080")


@pytest.mark.parametrize("name", ["orders4", "orders6"])
def test_hosts_of_either_family_are_reached(web: Pod, name: str) -> None:
    answer = web.call(lambda: exchange("127.0.0.1", PROXY, request("GET / HTTP/1.1", f"Host: {name}:8080")))
    assert answer.status == 200


def test_connect_opens_a_tunnel(web: Pod) -> None:
    tunnelled = request("GET / HTTP/1.1", "Host: orders")
    sent = request("CONNECT orders:8080 HTTP/1.1", "Host: orders:8080")
    answer = web.call(lambda: exchange("127.0.0.1", PROXY, sent, then=tunnelled))
    assert answer.status == 200
    assert answer.body.endswith(tunnelled)


def test_a_host_that_nobody_knows_is_an_error(web: Pod) -> None:
    answer = web.call(lambda: exchange("127.0.0.1", PROXY, request("GET / HTTP/1.1", "Host: nobody:8080")))
    assert answer.status == 503


@pytest.mark.parametrize("lines", [["GET / HTTP/1.1"], ["CONNECT web:15002 HTTP/1.1"]], ids=["GET", "CONNECT"])
def test_a_request_for_the_proxy_itself_does_not_go_round(web: Pod, lines: list[str]) -> None:
    answer = web.call(lambda: exchange("127.0.0.1", PROXY, request(*lines, "Host: localhost:15002")))
    assert answer.status == 508


@families
def test_no_other_pod_can_use_it(web: Pod, orders: Pod, family: Family) -> None:
    with pytest.raises(ConnectionRefusedError):
        orders.call(lambda: exchange(web.address[family], PROXY, request("GET / HTTP/1.1", "Host: orders:8080")))


def test_it_is_counted(web: Pod) -> None:
    page = web.call(lambda: exchange("127.0.0.1", 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x")))
    assert b'envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="explicit"}' in page.body


@families
def test_names_are_completed_as_for_the_application(node: Lab, web: Pod, orders: Pod, family: Family) -> None:
    """By the pod's own resolv.conf: `users` is a Service of its namespace, `users.accounts` one of another."""
    known = {f"users{family}.shop.svc.cluster.local": orders.address[family]}
    known[f"users{family}.accounts.svc.cluster.local"] = orders.address[family]
    with dns(node.node, known):
        for name in (f"users{family}", f"users{family}.accounts", f"users{family}.accounts.svc.cluster.local"):
            sent = request("GET / HTTP/1.1", f"Host: {name}:8080")
            assert web.call(lambda: exchange("127.0.0.1", PROXY, sent)).status == 200  # noqa: B023  called at once
