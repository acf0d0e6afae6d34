"""Probes, asked from the node as the kubelet asks them: they say of the application what they say without a sidecar."""

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.apiserver.processes import eventually, running
from tests.bench.contestants import certify
from tests.build import Document, operator
from tests.dataplane import health
from tests.dataplane.container import CHECKOUT
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, manifest
from tests.dataplane.wire import listening
from webhook.pod import SIDECAR

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

HTTP, HTTPS, TCP, NAMED, OPAQUE, EXCLUDED, GRPC = 8001, 8002, 8003, 8004, 8005, 8006, 8007
HEADERS = {"Host": "shop.example", "X-Probe": "yes"}
PROBES: dict[str, Document] = {
    "http": {
        "httpGet": {
            "port": "http",
            "path": "/healthy?deep=1",
            "httpHeaders": [{"name": name, "value": value} for name, value in HEADERS.items()],
        }
    },
    "https": {"httpGet": {"port": HTTPS, "path": "/healthy?deep=1", "scheme": "HTTPS"}},
    "grpc": {"grpc": {"port": GRPC, "service": "orders"}},
    "tcp": {"tcpSocket": {"port": TCP}},
    "tcp-named": {"tcpSocket": {"port": "named"}},
    "tcp-opaque": {"tcpSocket": {"port": OPAQUE}},
    "tcp-excluded": {"tcpSocket": {"port": EXCLUDED}},
}
PORTS = {
    "http": HTTP,
    "https": HTTPS,
    "grpc": GRPC,
    "tcp": TCP,
    "tcp-named": NAMED,
    "tcp-opaque": OPAQUE,
    "tcp-excluded": EXCLUDED,
}
ANNOTATIONS = {"exclude-inbound-ports": str(EXCLUDED), "opaque-inbound-ports": str(OPAQUE)}


def containers(**fields: object) -> list[Document]:
    """A container for each kind of probe; what it probes is in the test's hands."""
    return [
        {
            "name": name,
            "image": "registry.example/app:1",
            "command": ["sleep", "infinity"],
            "ports": [{"containerPort": HTTP, "name": "http"}, {"containerPort": NAMED, "name": "named"}],
            "readinessProbe": probe,
            **fields,
        }
        for name, probe in PROBES.items()
    ]


def beside(**annotations: str) -> Document:
    return manifest("web", *containers(), annotations=ANNOTATIONS | annotations)


def as_native_sidecars() -> Document:
    app = {"name": "app", "image": "registry.example/app:1", "command": ["sleep", "infinity"]}
    return manifest("web", app, annotations=ANNOTATIONS, initContainers=containers(restartPolicy="Always"))


PODS: dict[str, Callable[[Lab], Pod]] = {
    "no-sidecar": lambda node: node.create(beside(), inject=False),
    "containers": lambda node: node.create(beside()),
    "native-sidecars": lambda node: node.create(as_native_sidecars()),
    "beside-a-classic-sidecar": lambda node: node.create(beside(sidecar="classic")),
    "redirected-transparently": lambda node: node.create(beside(), settings=operator("sidecar: {mode: tproxy}")),
    "with-an-ipv6-address": lambda node: node.create(beside(), primary="ipv6"),
}


@pytest.fixture(scope="module", params=PODS)
def pod(node: Lab, request: pytest.FixtureRequest) -> Pod:
    made = PODS[request.param](node)
    made.kubelet.start()
    if request.param != "no-sidecar":
        sidecar = made.container(SIDECAR)
        eventually(lambda: made.kubelet.passes(sidecar, "readinessProbe"), "the sidecar is ready")
    return made


def passes(pod: Pod, probe: str) -> bool:
    """One try."""
    return pod.kubelet.passes(pod.container(probe), "readinessProbe")


# The application


class Healthy(BaseHTTPRequestHandler):
    """Answers the probes above, as they were written, and nothing else."""

    def do_GET(self) -> None:
        kept = isinstance(self.connection, ssl.SSLSocket) or all(
            self.headers.get_all(name) == [value] for name, value in HEADERS.items()
        )
        self.send_response(200 if kept and self.path == "/healthy?deep=1" else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def tls(folder: Path) -> ssl.SSLContext:
    certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


@contextmanager
def http_server(pod: Pod, port: int, folder: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("", port), Healthy, bind_and_activate=False)
    server.socket.close()
    server.socket = listening(pod, port)
    if port == HTTPS:
        server.socket = tls(folder).wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_server(pod: Pod, folder: Path) -> Iterator[None]:
    program = [sys.executable, str(CHECKOUT / "tests" / "dataplane" / "health.py"), str(GRPC), "orders"]
    with running(["nsenter", f"--net={pod.net.path}", *program], folder / "grpc.log"):
        eventually(lambda: pod.call(lambda: health.check("127.0.0.1", GRPC, "orders", 1)), "the gRPC server serves")
        yield


def up(pod: Pod, probe: str, folder: Path) -> AbstractContextManager[object]:
    match probe:
        case "http" | "https":
            return http_server(pod, PORTS[probe], folder)
        case "grpc":
            return grpc_server(pod, folder)
        case _:
            return listening(pod, PORTS[probe])


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_fails_before_the_application_listens(pod: Pod, probe: str) -> None:
    assert not passes(pod, probe)


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_passes_while_the_application_serves_and_fails_when_it_has_stopped(
    pod: Pod, probe: str, tmp_path: Path
) -> None:
    with up(pod, probe, tmp_path):
        assert passes(pod, probe)
    assert not passes(pod, probe)


@pytest.mark.parametrize("probe", PROBES)
def test_only_a_tcp_probe_is_content_with_an_application_that_does_not_answer(pod: Pod, probe: str) -> None:
    with listening(pod, PORTS[probe]):
        assert passes(pod, probe) == probe.startswith("tcp")


def test_an_application_that_accepts_no_more_connections_fails_though_it_serves_old_ones(pod: Pod) -> None:
    """Envoy, which keeps connections, must not ask over one of them."""
    old: list[socket.socket] = []
    with listening(pod, HTTP) as server:
        serving = Thread(target=_serve_one, args=(server, old))
        serving.start()
        assert passes(pod, "http")
    assert not passes(pod, "http")
    with suppress(OSError):  # its other end may have closed it
        old[0].shutdown(socket.SHUT_RDWR)
    serving.join()


def _serve_one(server: socket.socket, accepted: list[socket.socket]) -> None:
    """Answers every request of one connection, until that ends."""
    accepted.append(server.accept()[0])
    with accepted[0] as connection:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_tcp_probes_are_counted_by_port(node: Lab) -> None:
    pod = node.create(beside())
    pod.kubelet.start()
    eventually(lambda: pod.kubelet.passes(pod.container(SIDECAR), "readinessProbe"), "the sidecar is ready")
    passes(pod, "tcp")
    page = pod.call(lambda: exchange("127.0.0.1", 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x"))).body
    assert f'envoy_cluster_upstream_cx_connect_fail{{envoy_cluster_name="/tcp/{TCP}"}} 1'.encode() in page


def test_the_application_sees_one_connection_for_each_tcp_probe_and_none_between_them(pod: Pod) -> None:
    with listening(pod, TCP) as server:
        assert [passes(pod, "tcp") for _ in range(3)] == [True] * 3
        server.setblocking(False)
        for _ in range(3):
            with server.accept()[0] as accepted:
                accepted.settimeout(5)
                assert accepted.recv(1) == b""
        with pytest.raises(BlockingIOError):
            server.accept()
