"""HTTP/1 passes a sidecar unchanged, byte for byte but for what limits.py lists: there and back, with a sidecar at
either end, at both, and at none."""

import os
import socket
import threading
from hashlib import sha256

import pytest

from tests.dataplane import limits
from tests.dataplane.exchange import request
from tests.dataplane.limits import OK
from tests.dataplane.network import Family
from tests.dataplane.pairs import WAYS, Pairs, Way
from tests.dataplane.wire import Wire, read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

ways = pytest.mark.parametrize("way", WAYS)
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
GET = request("GET / HTTP/1.1", "Host: web")
MANY = [f"X-Header-{number}: {number}" for number in range(990)]


def response(*headers: str, status: str = "200 OK", body: bytes = b"") -> bytes:
    return request(f"HTTP/1.1 {status}", *headers, "Date: now") + body


def get(*headers: str, line: str = "GET / HTTP/1.1") -> bytes:
    return request(line, "Host: web", *headers)


UNCHANGED: dict[str, tuple[bytes, bytes]] = {
    "a path with dots, doubled and escaped slashes": (get(line="GET /a/../b//c%2Fd/./%2e%2E/?e=f%20&g HTTP/1.1"), OK),
    "bytes in a path that should have been escaped": (get(line='GET /a"<>|{}^`b\\c HTTP/1.1'), OK),
    "a path of 15 KB": (get(line=f"GET /{'a' * 15_000} HTTP/1.1"), OK),
    "a method of WebDAV": (get("Content-Length: 0", line="PROPFIND / HTTP/1.1"), OK),
    "a GET with a body": (get("Content-Length: 3") + b"abc", OK),
    "names in their case and order": (get("x-lower: 1", "X-UPPER: 2", "X-MiXeD: 3", "under_score: 4", "Empty: "), OK),
    "bytes above 127 in a value": (get("X-Latin: \xe9").decode().encode("latin-1"), OK),
    "cookies": (get("Cookie: a=1", "Cookie: b=2"), response("Set-Cookie: a", "Set-Cookie: b", "Content-Length: 0")),
    "990 headers": (get(*MANY), response(*MANY, "Content-Length: 0")),
    "a header of 250 KB": (
        get(f"X-Large: {'a' * 250_000}"),
        response(f"X-Large: {'a' * 250_000}", "Content-Length: 0"),
    ),
    "what proxies before this one added": (
        get("X-Forwarded-For: 1.2.3.4", "X-Request-Id: mine", "X-Forwarded-Host: a", "Forwarded: for=a"),
        OK,
    ),
    "the trace context of W3C": (get("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), OK),
    "the trace context of B3": (get("b3: 0", "X-B3-TraceId: 463ac35c9f6413ad48485a3953bb6124", "X-B3-Sampled: 0"), OK),
    "a deadline of gRPC": (get("grpc-timeout: 1n"), OK),
    "an answer with a status and words of its own": (GET, response("Content-Length: 0", status="299 Fine by me")),
    "an answer that names no server": (GET, response("Content-Length: 0")),
    "an answer that names its server": (GET, response("Server: mine", "X-Envoy-Mine: 1", "Content-Length: 0")),
    "an answer without content": (GET, response(status="204 No Content")),
    "an answer that refers to what the client has": (GET, response("ETag: a", status="304 Not Modified")),
    "a HEAD": (get(line="HEAD / HTTP/1.1"), response("Content-Length: 1000")),
    "an early hint": (GET, request("HTTP/1.1 103 Early Hints", "Link: </a>") + OK),
    "a body in one chunk, with trailers": (
        get("Trailer: x-sum", "Transfer-Encoding: chunked", line="POST / HTTP/1.1")
        + b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        request("HTTP/1.1 200 OK", "Date: now", "Transfer-Encoding: chunked") + b"2\r\nhi\r\n0\r\nx-sum: 2\r\n\r\n",
    ),
    "an error of the application": (GET, response("Content-Length: 2", status="503 Service Unavailable", body=b"no")),
    "a refused upgrade": (
        get("Connection: Upgrade", "Upgrade: websocket"),
        response("Content-Length: 2", status="426 Upgrade Required", body=b"no"),
    ),
}


@ways
@pytest.mark.parametrize("name", UNCHANGED)
def test_it_passes_unchanged(between: Pairs, way: Way, name: str) -> None:
    sent, answer = UNCHANGED[name]
    with wire(*between[way]) as line:
        assert asked(line, sent) == sent
        assert answered(line, answer) == answer


def asked(line: Wire, sent: bytes) -> bytes:
    """What the server receives."""
    line.near.sendall(sent)
    return take(line.far, len(sent), limits.PROTO)


def answered(line: Wire, answer: bytes) -> bytes:
    """What the client receives."""
    line.far.sendall(answer)
    return take(line.near, len(answer), b"connection: close\r\n")


def take(end: socket.socket, count: int, added: bytes) -> bytes:
    """So many bytes, not counting a line that may have been added once."""
    came = b""
    while len(came.replace(added, b"", 1)) < count and (more := end.recv(65536)):
        came += more
    return came.replace(added, b"", 1)


@ways
@families
def test_both_families_pass(between: Pairs, way: Way, family: Family) -> None:
    with wire(*between[way], family=family) as line:
        assert asked(line, GET) == GET
        assert answered(line, OK) == OK


@ways
def test_a_connection_carries_one_request_after_another(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        for _ in range(3):
            assert asked(line, GET) == GET
            assert answered(line, OK) == OK


@ways
def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(GET * 2)
        for number in (b"1", b"2"):
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += line.far.recv(1)
            line.far.sendall(response("Content-Length: 1") + number)
            assert read(line.near, number).endswith(b"\r\n\r\n" + number)


@ways
def test_the_application_decides_whether_a_body_is_sent(between: Pairs, way: Way) -> None:
    head = request("POST / HTTP/1.1", "Host: web", "Expect: 100-continue", "Content-Length: 4")
    with wire(*between[way]) as line:
        assert asked(line, head) == head
        go_on = request("HTTP/1.1 100 Continue")
        assert answered(line, go_on) == go_on
        line.near.sendall(b"body")
        assert read(line.far, b"body") == b"body"
        assert answered(line, OK) == OK


@ways
@pytest.mark.parametrize("token", ["websocket", "SPDY/3.1", "tcp"])
def test_after_an_upgrade_bytes_pass_both_ways(between: Pairs, way: Way, token: str) -> None:
    switching = request("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", f"Upgrade: {token}", "Date: now")
    with wire(*between[way]) as line:
        sent = get("Connection: Upgrade", f"Upgrade: {token}")
        assert asked(line, sent) == sent
        assert answered(line, switching) == switching
        talk(line)


@ways
def test_a_tunnel_passes_bytes_both_ways(between: Pairs, way: Way) -> None:
    sent = request("CONNECT other:443 HTTP/1.1", "Host: other:443")
    opened = request("HTTP/1.1 200 Connection established", "Date: now")
    with wire(*between[way]) as line:
        assert asked(line, sent) == sent
        assert answered(line, opened) == opened
        talk(line)


def talk(line: Wire) -> None:
    """Bytes that are no protocol, in both directions."""
    for end, other in ((line.near, line.far), (line.far, line.near)):
        end.sendall(bytes(range(256)))
        assert read(other, b"\xff") == bytes(range(256))


@ways
def test_a_body_streams_in_both_directions_at_once(between: Pairs, way: Way) -> None:
    """Neither waits for the other's end: the answer to each piece comes before the next piece is sent."""
    with wire(*between[way]) as line:
        head = get("Transfer-Encoding: chunked", line="POST / HTTP/1.1")
        assert asked(line, head) == head
        begun = request("HTTP/1.1 200 OK", "Date: now", "Transfer-Encoding: chunked")
        assert answered(line, begun) == begun
        for _ in range(3):
            assert asked(line, b"2\r\nab\r\n") == b"2\r\nab\r\n"
            assert answered(line, b"2\r\ncd\r\n") == b"2\r\ncd\r\n"


@ways
def test_a_large_body_arrives_whole(between: Pairs, way: Way) -> None:
    size = (2 << 30) if os.environ.get("LONG") else (64 << 20)
    with wire(*between[way]) as line:
        head = get(f"Content-Length: {size}", line="PUT / HTTP/1.1")
        assert asked(line, head) == head
        piece = bytes(range(256)) * 4096
        sent = sha256()

        def send() -> None:
            for _ in range(size // len(piece)):
                sent.update(piece)
                line.near.sendall(piece)

        sender = threading.Thread(target=send)
        sender.start()
        digest, left = sha256(), size
        while left and (more := line.far.recv(1 << 20)):
            digest.update(more)
            left -= len(more)
        sender.join()
        assert digest.hexdigest() == sent.hexdigest()


@ways
def test_an_answer_that_breaks_off_breaks_off(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        asked(line, GET)
        line.far.sendall(response("Content-Length: 1000") + b"part")
        assert read(line.near, b"part").endswith(b"part")
        line.far.close()
        assert line.near.recv(1) == b""
