"""Bodies that are sent again, and connections that stay at one replica: replicas without sidecars, and a caller."""

import http.client
import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from controlplane.extensions import Json
from controlplane.xds.routes import BODY_BYTES
from tests.apiserver.processes import eventually
from tests.cluster import service, slice_of
from tests.dataplane.lab import NODE, Document, Lab, Pod, manifest
from tests.dataplane.told import CLUSTER_IP, ControlPlane, admin, orders, started, until_told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

# On 8080 it takes HTTP requests with bodies, on 8081 it says its name to whoever says something.
REPLICA = """
import socket, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        length = len(self.rfile.read(int(self.headers['content-length'])))
        self.send_response(200); self.send_header('content-length', str(len(str(length)))); self.end_headers()
        self.wfile.write(str(length).encode())
    do_PUT = do_POST
def name():
    s = socket.create_server(('0.0.0.0', 8081))
    while True:
        c, _ = s.accept(); c.recv(1); c.sendall(sys.argv[1].encode()); c.close()
threading.Thread(target=name, daemon=True).start()
ThreadingHTTPServer(('0.0.0.0', 8080), Handler).serve_forever()
"""
NAMES = ("one", "two", "three")
NOBODY = NODE["ipv4"]  # refuses connections to port 8080
DATABASE, MYSQL = "10.96.0.7", "10.96.0.8"  # nobody but the caller's sidecar leads from there to a replica


def program(name: str) -> Document:
    return {"name": "app", "image": "registry.example/app:1", "command": [sys.executable, "-c", REPLICA, name]}


@pytest.fixture(scope="module")
def replicas(node: Lab) -> list[Pod]:
    return [node.pod(manifest(name, program(name)), inject=False) for name in NAMES]


@pytest.fixture(scope="module")
def caller(
    node: Lab, replicas: list[Pod], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pod, ControlPlane]]:
    pod, plane = started(node, tmp_path_factory.mktemp("controlplane"))
    plane.say(*orders(replicas))
    with plane.serving():
        until_told(pod, "out_80")
        yield pod, plane


def send(pod: Pod, method: str, size: int) -> tuple[int, str]:
    def sent() -> tuple[int, str]:
        with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=10)) as client:
            client.request(method, "/", body=b"x" * size, headers={"Host": "orders"})
            answer = client.getresponse()
            return answer.status, answer.read().decode()

    return pod.call(sent)


@pytest.fixture
def beside_nobody(caller: tuple[Pod, ControlPlane], replicas: list[Pod]) -> Pod:
    """Where every other attempt meets an endpoint at which nobody is."""
    pod, plane = caller
    there, slices = orders(replicas[:1], eject_after="0", retry_budget="100")
    slices["endpoints"].append({"addresses": [NOBODY], "conditions": {"ready": True}})
    plane.say(there, slices)
    wanted = {f"{NOBODY}:8080", f"{replicas[0].address['ipv4']}:8080"}
    eventually(lambda: endpoints(pod, "shop/orders:80") == wanted, "those are the endpoints", seconds=10)
    return pod


def endpoints(pod: Pod, cluster: str) -> set[str]:
    lines = [line.split("::") for line in admin(pod, "/clusters").splitlines() if line.startswith(f"{cluster}::")]
    return {line[1] for line in lines if line[1][0].isdigit()}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [10_000, 100_000, BODY_BYTES - 10_000])
def test_a_request_with_a_body_is_sent_again_if_nobody_took_it(beside_nobody: Pod, method: str, size: int) -> None:
    assert {send(beside_nobody, method, size) for _ in range(20)} == {(200, str(size))}


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_one_whose_body_is_too_large_to_be_kept_is_sent_once(beside_nobody: Pod, method: str) -> None:
    """Also while it waits to be sent again, when Envoy would say 507, which no application takes for a try-again."""
    assert {send(beside_nobody, method, 2_000_000)[0] for _ in range(30)} == {200, 503}


def test_a_body_of_any_size_arrives_whole(caller: tuple[Pod, ControlPlane], replicas: list[Pod]) -> None:
    pod, plane = caller
    plane.say(*orders(replicas))
    wanted = {f"{one.address['ipv4']}:8080" for one in replicas}
    eventually(lambda: endpoints(pod, "shop/orders:80") == wanted, "those are the endpoints", seconds=10)
    assert send(pod, "POST", 20_000_000) == (200, "20000000")


def flags(pod: Pod, address: str) -> str:
    """What the proxy thinks of the health of an endpoint."""
    start = f"shop/orders:80::{address}:8080::health_flags::"
    return next(line[len(start) :] for line in admin(pod, "/clusters").splitlines() if line.startswith(start))


def test_a_health_check_of_tcp_fails_where_nobody_accepts_and_never_beside_a_sidecar(
    node: Lab, caller: tuple[Pod, ControlPlane]
) -> None:
    pod, plane = caller
    silent = [node.pod(manifest(name, SILENT), inject=inject) for name, inject in (("with", True), ("without", False))]
    plane.say(*orders(silent, health_check="tcp", health_check_interval="1s"))
    has, has_not = (one.address["ipv4"] for one in silent)
    wanted = {f"{has}:8080", f"{has_not}:8080"}
    eventually(lambda: endpoints(pod, "shop/orders:80") == wanted, "those are the endpoints", seconds=10)
    eventually(lambda: "failed_active_hc" in flags(pod, has_not), "it is found to be dead", seconds=20)
    assert flags(pod, has) == "healthy"


SILENT: Document = {
    "name": "app",
    "image": "registry.example/app:1",
    "command": [sys.executable, "-c", "import time; time.sleep(3600)"],
}
STICKY: list[Json] = [
    service("database", clusterIP=DATABASE, sessionAffinity="ClientIP", ports=[{"port": 5432, "name": "tcp"}]),
    service(
        "database",
        annotations={"load-balancing": "consistent-hash", "hash-on": "source-ip"},
        clusterIP=DATABASE,
        ports=[{"port": 5432, "name": "tcp"}],
    ),
]


@pytest.mark.parametrize("database", STICKY, ids=["sessionAffinity", "consistent-hash"])
def test_connections_of_a_pod_go_to_one_replica_where_the_service_wants_that(
    caller: tuple[Pod, ControlPlane], replicas: list[Pod], database: Json
) -> None:
    pod, plane = caller
    addresses = [one.address["ipv4"] for one in replicas]
    plane.say(*orders(replicas))
    eventually(lambda: not endpoints(pod, "shop/database:5432"), "there is none", seconds=10)
    plane.say(*orders(replicas), database, slice_of("database", addresses, ports=[{"name": "tcp", "port": 8081}]))
    wanted = {f"{address}:8081" for address in addresses}
    eventually(lambda: endpoints(pod, "shop/database:5432") == wanted, "those are the endpoints", seconds=10)
    until_told(pod, "out_5432")
    assert len({pod.call(connect) for _ in range(20)}) == 1


def test_an_opaque_port_is_balanced_as_tcp(caller: tuple[Pod, ControlPlane], replicas: list[Pod]) -> None:
    pod, plane = caller
    addresses = [one.address["ipv4"] for one in replicas]
    mysql = service("mysql", clusterIP=MYSQL, ports=[{"port": 3306, "name": "mysql"}])
    plane.say(*orders(replicas), mysql, slice_of("mysql", addresses, ports=[{"name": "mysql", "port": 8081}]))
    wanted = {f"{address}:8081" for address in addresses}
    eventually(lambda: endpoints(pod, "shop/mysql:3306") == wanted, "those are the endpoints", seconds=10)
    until_told(pod, "out_3306")
    assert {pod.call(lambda: connect(MYSQL, 3306)) for _ in range(30)} == set(NAMES)


def connect(address: str = DATABASE, port: int = 5432) -> str:
    """Who took the connection."""
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(b"x")
        return connection.recv(100).decode()
