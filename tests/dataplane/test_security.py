"""What an application, and another pod, can do to a sidecar: docs/security.md, tried."""

import socket
from contextlib import ExitStack

import pytest

from tests.build import operator
from tests.dataplane.exchange import Answer, exchange, request
from tests.dataplane.lab import APPLICATION, Lab, Pod, application, asks, manifest
from tests.dataplane.wire import listening

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

PROBED, OTHER = 8003, 8004  # a port with a TCP probe, one without
QUESTION = f"/tcp/{PROBED}"
GREETING = b"for those who are let in"


@pytest.fixture(scope="module")
def web(node: Lab) -> Pod:
    probed = {"tcpSocket": {"port": PROBED}, "periodSeconds": 3600}
    return node.pod(manifest("web", application("echo.py", "8080", readinessProbe=asks(8080), livenessProbe=probed)))


@pytest.fixture(scope="module")
def stranger(node: Lab) -> Pod:
    """Another pod, without a sidecar."""
    return node.pod(manifest("stranger", application("echo.py", "8080", readinessProbe=asks(8080))), inject=False)


# An application and its own sidecar


@pytest.mark.parametrize(
    "path",
    ["/run/envoy-sidecar", "/etc/envoy-sidecar", "/etc/envoy-sidecar-ca", "/var/run/secrets/envoy-sidecar/token"],
)
@pytest.mark.parametrize("uid", [APPLICATION, 0], ids=["its own user", "root"])
def test_an_application_does_not_see_the_volumes_of_its_sidecar(node: Lab, path: str, uid: int) -> None:
    app = application("echo.py", "8080", readinessProbe=asks(8080), uid=uid)
    pod = node.pod(manifest("app", app), settings=operator("bootstrap: {controlPlane: 'nobody.lab:15012'}"))
    assert pod.container("envoy-sidecar").execute(["ls", path]).returncode == 0
    assert pod.container("app").execute(["ls", path]).returncode != 0


def test_a_sidecar_does_not_see_the_applications_token(web: Pod) -> None:
    seen = web.container("envoy-sidecar").execute(["ls", "/var/run/secrets/kubernetes.io/serviceaccount"])
    assert (seen.returncode, seen.stdout) == (0, "")


@pytest.mark.parametrize("path", ["/config_dump", "/quitquitquit", "/ready/../config_dump", "/stats", "/logging"])
@pytest.mark.parametrize("port", [15001, 15002, 15003, 15006, 15007, 15020, 15021, 15090])
def test_no_port_leads_to_the_admin_interface(web: Pod, port: int, path: str) -> None:
    answers = [_answer(web, web.address["ipv4"], port, f"{method} {path} HTTP/1.1") for method in ("GET", "POST")]
    assert [answer.status for answer in answers if answer] == [404] * len([answer for answer in answers if answer])


def _answer(pod: Pod, address: str, port: int, line: str) -> Answer | None:
    """What the application's user gets there; None if the connection is refused or ends."""
    try:
        answer = pod.call(lambda: exchange(address, port, request(line, "Host: x")))
    except OSError:
        return None
    return answer if answer.head else None


# Another pod and the ports of a sidecar


def test_another_pod_cannot_use_the_proxy_of_mode_none(web: Pod, stranger: Pod) -> None:
    answer = _answer(stranger, web.address["ipv4"], 15002, "GET http://127.0.0.1:8080/ HTTP/1.1")
    assert answer is None or answer.status == 503


def test_another_pod_learns_whether_a_probed_port_is_open(web: Pod, stranger: Pod) -> None:
    ask = f"GET {QUESTION} HTTP/1.1"
    assert _status(stranger, web, ask) == 503
    with listening(web, PROBED):
        assert _status(stranger, web, ask) == 204


def _status(stranger: Pod, web: Pod, *lines: str) -> int:
    return stranger.call(lambda: exchange(web.address["ipv4"], 15020, request(*lines, "Host: x"))).status


@pytest.mark.parametrize(
    "path", [f"/tcp/{OTHER}", "/tcp/", "/", f"{QUESTION}/", f"/{QUESTION}", f"{QUESTION}?x", "/admin", "/passthrough"]
)
def test_another_pod_learns_nothing_of_other_ports(web: Pod, stranger: Pod, path: str) -> None:
    with listening(web, OTHER):
        assert _status(stranger, web, f"GET {path} HTTP/1.1") == 404


@pytest.mark.parametrize(
    "sent",
    [
        request(f"POST {QUESTION} HTTP/1.1", "Host: x", "Content-Length: 4") + b"evil",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x", "Content-Length: 4") + b"evil",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked") + b"4\r\nevil\r\n0\r\n\r\n",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked") + b"4\r\nevil\r\n",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked") + b"0\r\nX: evil\r\n\r\n",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x") + b"evil",
        request(f"GET {QUESTION} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket") + b"evil",
        request(f"CONNECT {QUESTION} HTTP/1.1", "Host: x") + b"evil",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nevil",
    ],
    ids=["POST", "body", "chunked", "unfinished", "trailers", "pipelined", "upgrade", "CONNECT", "HTTP/2"],
)
def test_no_byte_of_another_pod_gets_to_the_application_by_a_probe_nor_back(
    web: Pod, stranger: Pod, sent: bytes
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(listening(web, PROBED))
        near = stack.enter_context(stranger.call(lambda: socket.create_connection((web.address["ipv4"], 15020), 5)))
        near.sendall(sent)
        answer = near.recv(65536)  # by then, a connection to the application stands, or none will
        assert _greet(server, stack) == b""
        assert GREETING not in answer + _rest(near)


def _greet(server: socket.socket, stack: ExitStack) -> bytes:
    """All that arrives on a connection to the application, which speaks first; nothing, if none is made."""
    server.setblocking(False)
    try:
        accepted, _ = server.accept()
    except BlockingIOError:
        return b""
    stack.enter_context(accepted).settimeout(5)
    accepted.sendall(GREETING)
    return _rest(accepted)


def _rest(end: socket.socket) -> bytes:
    came = b""
    try:
        while more := end.recv(65536):
            came += more
    except (TimeoutError, ConnectionResetError):
        pass
    return came


def test_nobody_keeps_a_connection_to_the_application_by_a_probe_for_longer_than_a_probe_takes(
    web: Pod, stranger: Pod
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(listening(web, PROBED))
        near = stack.enter_context(stranger.call(lambda: socket.create_connection((web.address["ipv4"], 15020), 5)))
        near.sendall(request(f"GET {QUESTION} HTTP/1.1", "Host: x"))
        stack.enter_context(server.accept()[0])
        assert _rest(near).startswith(b"HTTP/1.1 204 ")
