"""What a sidecar offers to others, and what it refuses to everybody."""

import json
import re
import socket
import stat

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.network import LOOPBACK, Family
from tests.dataplane.pairs import IDLE, Pairs
from tests.dataplane.services import service
from tests.dataplane.wire import dial, read, read_all, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

APP, READY, METRICS = 8080, 15021, 15090
GET = request("GET / HTTP/1.1", "Host: web")
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@pytest.fixture
def node(between: Pairs) -> Lab:
    return between.lab


def web(node: Lab) -> Pod:
    return node.pod(manifest("web", application("echo.py", f"{APP}", readinessProbe=asks(APP))))


def page(asker: Pod, address: str) -> list[str]:
    """The lines of a sidecar's metrics."""
    answer = asker.call(lambda: exchange(address, METRICS, request("GET /stats/prometheus HTTP/1.1", "Host: x")))
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    return [line for line in lines if line.startswith("envoy") and f"_{METRICS}" not in line]  # that port counts itself


# Its own ports


@families
@pytest.mark.parametrize("port", [15001, 15002, 15003, 15006, 15007])
def test_its_own_ports_are_refused_from_outside(between: Pairs, family: Family, port: int) -> None:
    client, server = between["inbound"]
    with dial(client, server.address[family], port) as connection:
        connection.sendall(b"no protocol\n")
        assert ended(connection)


@families
@pytest.mark.parametrize("port", [15001, 15003, 15006, 15007])
def test_its_own_ports_are_refused_to_the_application(between: Pairs, family: Family, port: int) -> None:
    with dial(between.servers[True], LOOPBACK[family], port) as connection:
        connection.sendall(b"no protocol\n")
        assert ended(connection)


def ended(connection: socket.socket) -> bool:
    try:
        return read_all(connection) == b""
    except ConnectionResetError:
        return True


@families
def test_a_pod_reaches_itself_through_its_own_service(node: Lab, family: Family) -> None:
    pod = web(node)
    own = service(node, [pod])
    assert pod.call(lambda: exchange(own.address[family], own.port, GET)).status == 200


# Pages


def test_metrics_are_served_to_any_monitor(between: Pairs) -> None:
    client, server = between["inbound"]
    assert "envoy_server_live{} 1" in page(client, server.address["ipv4"])


@pytest.mark.parametrize("port", [READY, METRICS])
@pytest.mark.parametrize(
    "line", ["POST /quitquitquit", "GET /config_dump", "POST /ready", "GET /stats/prometheus/../../", "GET /logging"]
)
def test_nothing_else_of_the_admin_interface_is(between: Pairs, port: int, line: str) -> None:
    client, server = between["inbound"]
    sent = request(f"{line} HTTP/1.1", "Host: x")
    assert client.call(lambda: exchange(server.address["ipv4"], port, sent)).status == 404


def test_the_application_cannot_reach_the_admin_socket(between: Pairs) -> None:
    """It is a file in a volume that the application does not mount, and its owner's alone."""
    pod = between.servers[True]
    found = (pod.folder / "volumes/envoy-sidecar-run/admin.sock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 1337)
    assert pod.container("app").execute(["ls", "/run/envoy-sidecar"]).returncode != 0


def test_the_number_of_series_does_not_grow_with_what_clients_ask_for(node: Lab, between: Pairs) -> None:
    """Hosts, paths and callers are no labels."""
    pod, client = web(node), between.clients[False]
    asked = [request(f"GET /{number}?{number} HTTP/1.1", f"Host: h{number}") for number in range(2)]
    for sent in asked:
        client.call(lambda: exchange(pod.address["ipv4"], APP, sent))  # noqa: B023  called at once

    def series() -> set[str]:
        return {re.sub(r" \S+$", "", line) for line in page(client, pod.address["ipv4"])}

    # Envoy looks at its resources every second, and only then says how they are.
    eventually(lambda: sum("_pressure{" in one for one in series()) == 2, "all series are there")
    before = series()
    for number in range(100):
        sent = request(f"GET /{number}?{number} HTTP/1.1", f"Host: host-{number}", f"X-{number}: 1")
        client.call(lambda: exchange(pod.address["ipv4"], APP, sent))  # noqa: B023
    after = series()
    assert after == before
    assert len(after) < 700


# The access log


@pytest.mark.parametrize(
    ("annotations", "statuses"),
    [
        pytest.param({}, [], id="by default"),
        pytest.param({"access-log": "off"}, [], id="off"),
        pytest.param({"access-log": "errors"}, [503], id="errors"),
        pytest.param({"access-log": "all"}, [200, 503], id="all"),
    ],
)
def test_a_pod_chooses_what_is_logged(
    node: Lab, between: Pairs, annotations: dict[str, str], statuses: list[int]
) -> None:
    pod = node.pod(manifest("web", IDLE, annotations=annotations))
    for status in (b"200 OK", b"503 Service Unavailable"):
        with wire(between.clients[False], pod) as line:
            line.near.sendall(GET)
            read(line.far)
            line.far.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)
            read(line.near)
    pod.kubelet.stop()
    logged = [json.loads(line) for line in pod.log().splitlines() if line.startswith("{")]
    assert [line["status"] for line in logged] == statuses
    assert all((line["direction"], line["pod"], line["path"]) == ("inbound", "web", "/") for line in logged)
