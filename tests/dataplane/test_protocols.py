"""Other protocols than HTTP/1 pass a sidecar unchanged: there and back, with one at either end, at both, at none."""

import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h2.events
import pytest
import websockets.sync.client
import websockets.sync.server

from certs.authority import issue_ca, issue_leaf
from certs.bundle import Validity
from tests.dataplane.container import CHECKOUT
from tests.dataplane.http2 import REQUEST, Http2
from tests.dataplane.lab import Pod, application, manifest
from tests.dataplane.network import Family
from tests.dataplane.pairs import OPAQUE, WAYS, Pairs, Way
from tests.dataplane.wire import accept, dial, listening, read, read_all, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

ways = pytest.mark.parametrize("way", WAYS)
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
CONNECTIONS = 9_000 if os.environ.get("LONG") else 300


# TCP


@ways
@families
@pytest.mark.parametrize("port", [8080, OPAQUE])
def test_bytes_that_are_no_protocol_pass(between: Pairs, way: Way, family: Family, port: int) -> None:
    with wire(*between[way], family=family, port=port) as line:
        line.near.sendall(bytes(range(256)))
        assert read(line.far, b"\xff") == bytes(range(256))
        line.far.sendall(b"\x00answer")
        assert read(line.near, b"answer") == b"\x00answer"


@ways
@families
def test_on_an_opaque_port_a_server_that_speaks_first_is_heard_at_once(
    between: Pairs, way: Way, family: Family
) -> None:
    with wire(*between[way], family=family, port=OPAQUE) as line:
        began = time.monotonic()
        line.far.sendall(b"220 ready\r\n")
        assert read(line.near, b"\n") == b"220 ready\r\n"
        assert time.monotonic() - began < 0.4


@ways
@pytest.mark.parametrize("port", [8080, OPAQUE])
def test_each_side_closes_for_itself(between: Pairs, way: Way, port: int) -> None:
    with wire(*between[way], port=port) as line:
        line.near.sendall(b"\x00all of it")
        assert read(line.far, b"it") == b"\x00all of it"
        line.near.shutdown(socket.SHUT_WR)
        assert read_all(line.far) == b""
        line.far.sendall(b"answer")
        line.far.shutdown(socket.SHUT_WR)
        assert read_all(line.near) == b"answer"


@ways
def test_a_reset_arrives_as_an_end(between: Pairs, way: Way) -> None:
    with wire(*between[way], port=OPAQUE) as line:
        line.near.sendall(b"x")
        assert line.far.recv(1) == b"x"
        line.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.far.close()
        with suppress(ConnectionResetError):
            assert line.near.recv(1) == b""


@ways
def test_many_connections_are_open_at_once(between: Pairs, way: Way) -> None:
    client, server = between[way]
    with ExitStack() as stack:
        listener = stack.enter_context(listening(server, 8080))
        pairs = []
        for number in range(CONNECTIONS):
            near = stack.enter_context(dial(client, server.address["ipv4"], 8080))
            near.sendall(b"GET /%d HTTP/1.1\r\nHost: web\r\n\r\n" % number)
            far = accept(listener, stack)
            pairs.append((near, far, number))
        for _, far, number in pairs:
            assert read(far).startswith(b"GET /%d " % number)
            far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%d" % (len(str(number)), number))
        for near, _, number in pairs:
            assert read(near, b"\r\n\r\n%d" % number).startswith(b"HTTP/1.1 200 OK")


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for `web`, its key, and the CA."""
    folder = tmp_path_factory.mktemp("tls")
    validity = Validity.starting(datetime.now(UTC), timedelta(days=1))
    authority = issue_ca("test CA", validity)
    leaf = issue_leaf(authority, ["web"], validity)
    files = {"ca": authority.certificate, "certificate": leaf.certificate, "key": leaf.key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


@ways
def test_tls_reaches_the_server_as_the_client_speaks_it(between: Pairs, way: Way, certificate: dict[str, Path]) -> None:
    """The client verifies the server's own certificate; protocol and name are negotiated between the two."""
    with wire(*between[way]) as line:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate["certificate"], certificate["key"])
        server.set_alpn_protocols(["mine"])
        asked: list[str | None] = []
        server.sni_callback = lambda _socket, name, _context: asked.append(name)

        def answer() -> None:
            with server.wrap_socket(line.far, server_side=True) as secure:
                secure.sendall(secure.recv(100).upper())

        serving = threading.Thread(target=answer)
        serving.start()
        client = ssl.create_default_context(cafile=str(certificate["ca"]))
        client.set_alpn_protocols(["other", "mine"])
        with client.wrap_socket(line.near, server_hostname="web") as secure:
            assert (secure.version(), secure.selected_alpn_protocol()) == ("TLSv1.3", "mine")
            secure.sendall(b"hello")
            assert secure.recv(100) == b"HELLO"
        serving.join()
        assert asked == ["web"]


# HTTP/2 with prior knowledge

RESPONSE = [(b":status", b"200"), (b"x-answer", b"1"), (b"date", b"now"), (b"server", b"mine")]
TRAILERS = [(b"x-sum", b"1"), (b"x-other", b"2")]


@ways
def test_http_2_passes_with_trailers(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        client = Http2(line.near, client=True)
        client.h2.send_headers(1, REQUEST)
        client.h2.send_data(1, b"body")
        client.h2.send_headers(1, TRAILERS, end_stream=True)
        client.flush()
        server = Http2(line.far, client=False)
        arrived = server.next(h2.events.RequestReceived)
        assert [pair for pair in arrived.headers if pair[0] != b"x-forwarded-proto"] == REQUEST
        assert server.next(h2.events.DataReceived).data == b"body"
        assert server.next(h2.events.TrailersReceived).headers == TRAILERS
        stream = arrived.stream_id
        server.h2.send_headers(stream, RESPONSE)
        server.h2.send_data(stream, b"answer")
        server.h2.send_headers(stream, TRAILERS, end_stream=True)
        server.flush()
        assert client.next(h2.events.ResponseReceived).headers == RESPONSE
        assert client.next(h2.events.DataReceived).data == b"answer"
        assert client.next(h2.events.TrailersReceived).headers == TRAILERS


@ways
def test_streams_of_http_2_share_a_connection_and_a_reset_ends_one_of_them(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        client = Http2(line.near, client=True)
        for stream in (1, 3):
            client.h2.send_headers(stream, REQUEST, end_stream=stream == 3)
        client.flush()
        server = Http2(line.far, client=False)
        first, second = (server.next(h2.events.RequestReceived).stream_id for _ in range(2))
        client.h2.reset_stream(1)
        client.flush()
        assert server.next(h2.events.StreamReset).stream_id == first
        server.h2.send_headers(second, RESPONSE, end_stream=True)
        server.flush()
        assert client.next(h2.events.ResponseReceived).stream_id == 3


# gRPC


@pytest.fixture(scope="module")
def calls(between: Pairs) -> dict[Way, Pod]:
    """gRPC servers with and without a sidecar, by the way to them."""
    app = application("grpc_app.py", "serve", "50051", readinessProbe={"tcpSocket": {"port": 50051}})
    servers = {with_it: between.lab.pod(manifest("grpc", app), inject=with_it) for with_it in (True, False)}
    return {way: servers[way in ("inbound", "both")] for way in WAYS}


def grpc_call(client: Pod, server: Pod) -> dict[str, object]:
    program = str(CHECKOUT / "tests" / "dataplane" / "grpc_app.py")
    made = client.container("app").execute([sys.executable, program, "call", server.address["ipv4"], "50051"])
    assert made.returncode == 0, made.stderr
    return dict(json.loads(made.stdout))


@pytest.mark.parametrize("way", ["outbound", "inbound", "both"])
def test_grpc_calls_of_every_kind_come_to_the_same(between: Pairs, calls: dict[Way, Pod], way: Way) -> None:
    directly = grpc_call(between["direct"][0], calls["direct"])
    assert directly["streamed"] == ["0!", "1!", "2!", "3!", "4!"]
    assert grpc_call(between[way][0], calls[way]) == directly


# WebSocket


@ways
def test_websockets_pass(between: Pairs, way: Way) -> None:
    client, server = between[way]

    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with listening(server, 8080) as listener, websockets.sync.server.serve(echo, sock=listener) as serving:
        threading.Thread(target=serving.serve_forever).start()
        near = dial(client, server.address["ipv4"], 8080)
        with websockets.sync.client.connect("ws://web/chat?a=b", sock=near, subprotocols=None) as connection:
            for message in ("text", b"\x00binary", "x" * 500_000):
                connection.send(message)
                assert connection.recv(timeout=10) == message
            assert connection.ping().wait(10)
        serving.shutdown()
