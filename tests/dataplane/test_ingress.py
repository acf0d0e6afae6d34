"""What an ingress sidecar tells a caller's: that the application was never reached, and how long it takes.

The tests are that caller's sidecar, on a wire to a pod whose own it is about.
"""

import math
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import h2.events
import pytest
from h2.errors import ErrorCodes

from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED
from tests import build
from tests.apiserver.processes import eventually
from tests.dataplane.exchange import Answer, exchange, request
from tests.dataplane.http2 import REQUEST, Http2
from tests.dataplane.lab import Pod, application, manifest
from tests.dataplane.pairs import IDLE as DOES_NOTHING
from tests.dataplane.pairs import Pairs, Way
from tests.dataplane.wire import accept, dial, listening, read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

MIB = 1 << 20
POST = request("POST / HTTP/1.1", "Host: web", "Content-Length: 4") + b"body"
ASKING = request("GET / HTTP/1.1", "Host: web", f"{ASKS_LOAD}: 1")
ways = pytest.mark.parametrize("way", ["outbound", "inbound", "both"])


# The application was never reached


def own(pod: Pod) -> bytes:
    """The address that was asked, by which a caller's sidecar knows that this one speaks of itself."""
    return f"{pod.address['ipv4']}:8080".encode()


def test_where_nobody_listens_nothing_was_processed(between: Pairs) -> None:
    client, server = between["inbound"]
    answer = client.call(lambda: exchange(server.address["ipv4"], 8080, POST))
    assert answer.status == 503
    assert answer.header(UNPROCESSED) == own(server)


def test_to_grpc_it_says_so_in_the_same_way(between: Pairs) -> None:
    client, server = between["inbound"]
    with closing(dial(client, server.address["ipv4"], 8080)) as near:
        caller = Http2(near, client=True)
        caller.h2.send_headers(1, [*REQUEST[:4], (b"content-type", b"application/grpc")], end_stream=True)
        caller.flush()
        head = dict(caller.next(h2.events.ResponseReceived).headers)
    assert head[b"grpc-status"] == b"14"
    assert head[UNPROCESSED.encode()] == own(server)


def test_an_application_that_accepts_no_connection_has_processed_nothing(between: Pairs) -> None:
    pod = between.lab.pod(
        manifest("full", DOES_NOTHING), settings=build.operator("bootstrap: {connectTimeoutSeconds: 1}")
    )
    client = between.clients[False]

    def full() -> socket.socket:
        """A queue of one, which is taken: the kernel lets further connections wait."""
        listener = socket.create_server(("0.0.0.0", 8080), backlog=0)
        taken.append(socket.create_connection(("127.0.0.1", 8080)))
        return listener

    taken: list[socket.socket] = []
    with closing(pod.call(full)):
        answer = client.call(lambda: exchange(pod.address["ipv4"], 8080, POST))
    taken[0].close()
    assert answer.status == 503
    assert answer.header(UNPROCESSED) == own(pod)


def test_a_sidecar_that_refuses_for_want_of_memory_has_processed_nothing(between: Pairs) -> None:
    app = application("echo.py", "8080")
    pod = between.lab.pod(manifest("web", app), settings=build.operator("sidecar: {resources: {memoryLimit: 200Mi}}"))
    (pod.folder / "envoy-sidecar/cgroup/memory.current").write_text(f"{199 * MIB}\n")

    def refused() -> Answer | None:
        answer = between.clients[False].call(lambda: exchange(pod.address["ipv4"], 8080, POST))
        return answer if answer.status == 503 else None

    assert eventually(refused, "requests are refused").header(UNPROCESSED) == own(pod)


@pytest.mark.parametrize("how", ["this stream", "all later ones"])
def test_an_application_that_refuses_a_stream_has_not_begun_it(between: Pairs, how: str) -> None:
    def refuse(server: Http2, stream: int) -> None:
        if how == "this stream":
            server.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        else:
            server.h2.close_connection(last_stream_id=0)

    assert dict(reset(between, refuse))[UNPROCESSED.encode()] == own(between.servers[True])


def reset(between: Pairs, how: Callable[[Http2, int], None]) -> list[tuple[bytes, bytes]]:
    """What the head of the answer is to a request over HTTP/2 that the application ends so."""
    with wire(*between["inbound"]) as line:
        client = Http2(line.near, client=True)
        client.h2.send_headers(1, REQUEST, end_stream=True)
        client.flush()
        server = Http2(line.far, client=False)
        how(server, server.next(h2.events.RequestReceived).stream_id)
        server.flush()
        answer = list(client.next(h2.events.ResponseReceived).headers)
    assert (b":status", b"503") in answer
    return answer


# It may have been


@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.INTERNAL_ERROR, ErrorCodes.NO_ERROR])
def test_an_application_that_resets_a_stream_may_have_begun_it(between: Pairs, code: ErrorCodes) -> None:
    assert UNPROCESSED.encode() not in dict(reset(between, lambda server, stream: server.h2.reset_stream(stream, code)))


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 ", b"no HTTP\r\n\r\n"], ids=["nothing", "half a line", "no HTTP"])
def test_an_application_that_had_the_request_may_have_processed_it(between: Pairs, says: bytes) -> None:
    with wire(*between["inbound"]) as line:
        line.near.sendall(POST)
        read(line.far, b"body")
        line.far.sendall(says)
        line.far.close()
        answer = read(line.near)
    assert re.match(rb"HTTP/1.1 50[23] ", answer)
    assert UNPROCESSED.encode() not in answer


def test_an_application_that_resets_the_connection_may_have_processed_the_request(between: Pairs) -> None:
    with wire(*between["inbound"]) as line:
        line.near.sendall(POST)
        read(line.far, b"body")
        line.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        line.far.close()
        answer = read(line.near)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert UNPROCESSED.encode() not in answer


# Nobody else says so


@ways
def test_the_marker_of_an_application_ends_at_a_sidecar(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(POST)
        read(line.far, b"body")
        line.far.sendall(b"HTTP/1.1 503 No\r\nX-Mesh-Unprocessed: 1\r\nDate: now\r\nContent-Length: 2\r\n\r\nno")
        assert read(line.near, b"no") == b"HTTP/1.1 503 No\r\nDate: now\r\nContent-Length: 2\r\n\r\nno"


@ways
def test_over_http_2_it_ends_there_too(between: Pairs, way: Way) -> None:
    """In an answer that is nothing but a head, as gRPC's failures are."""
    head = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"14")]
    with wire(*between[way]) as line:
        client = Http2(line.near, client=True)
        client.h2.send_headers(1, [*REQUEST, (ASKS_LOAD.encode(), b"1")], end_stream=True)
        client.flush()
        server = Http2(line.far, client=False)
        arrived = server.next(h2.events.RequestReceived)
        assert ASKS_LOAD.encode() not in dict(arrived.headers)
        server.h2.send_headers(arrived.stream_id, [*head, (UNPROCESSED.encode(), b"true")], end_stream=True)
        server.flush()
        assert [pair for pair in client.next(h2.events.ResponseReceived).headers if pair[0] != b"date"] == head


def test_at_the_proxy_of_mode_none_what_sidecars_tell_each_other_ends_too(between: Pairs) -> None:
    caller = between.lab.pod(manifest("none", DOES_NOTHING, annotations={"mode": "none"}), level="restricted")
    server = between.servers[False]
    host = f"Host: {server.address['ipv4']}:8080"
    with ExitStack() as stack:
        listener = stack.enter_context(listening(server, 8080))
        near = stack.enter_context(dial(caller, "127.0.0.1", 15002))
        near.sendall(request("POST / HTTP/1.1", host, "Content-Length: 0", f"{ASKS_LOAD}: 1"))
        far = accept(listener, stack)
        assert ASKS_LOAD.encode() not in read(far)
        far.sendall(b"HTTP/1.1 503 No\r\nX-Mesh-Unprocessed: true\r\nDate: now\r\nContent-Length: 2\r\n\r\nno")
        assert read(near, b"no") == b"HTTP/1.1 503 No\r\nDate: now\r\nContent-Length: 2\r\n\r\nno"


# How long the application takes


def report(answer: bytes) -> float:
    """Seconds."""
    found = re.search(
        LOAD_REPORT.encode() + rb": TEXT application_utilization=([0-9.]+),rps_fractional=32000000\r\n", answer
    )
    assert found, answer
    return math.pow(float(found[1]), 2 / 3) / 1000


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def test_whoever_asks_is_told_how_long_the_application_has_taken_lately(between: Pairs) -> None:
    """An answer counts by the time since the one before: after 1 s, 1 - exp(-1/5) of the mean."""
    with wire(*between["inbound"], port=8091) as line:
        for seconds, least, most in ((0.2, 0.2, 0.25), (0.0, 0.19, 0.25), (1.0, 0.33, 0.45)):
            line.near.sendall(ASKING)
            assert ASKS_LOAD.encode() not in read(line.far)
            time.sleep(seconds)
            line.far.sendall(OK)
            assert least <= report(read(line.near, b"hi")) <= most


def test_whoever_does_not_ask_is_told_nothing_and_the_applications_own_report_passes(between: Pairs) -> None:
    mine = OK.replace(b"Content", b"Endpoint-Load-Metrics: mine\r\nDate: now\r\nContent")
    with wire(*between["inbound"]) as line:
        line.near.sendall(request("GET / HTTP/1.1", "Host: web"))
        read(line.far)
        line.far.sendall(mine)
        assert read(line.near, b"hi") == mine


def test_each_port_has_a_report_of_its_own(between: Pairs) -> None:
    def reported(port: int, seconds: float) -> float:
        with wire(*between["inbound"], port=port) as line:
            line.near.sendall(ASKING)
            read(line.far)
            time.sleep(seconds)
            line.far.sendall(OK)
            return report(read(line.near, b"hi"))

    # Over several connections, as each belongs to one of Envoy's threads.
    assert min(reported(8092, 0.2) for _ in range(4)) >= 0.2
    assert max(reported(8093, 0.0) for _ in range(4)) < 0.1


@pytest.mark.parametrize(
    "fails",
    [OK.replace(b"200 OK", b"500 No"), OK.replace(b"Content", b"grpc-status: 14\r\nContent")],
    ids=["500", "gRPC"],
)
def test_what_fails_at_once_is_not_taken_for_quick(between: Pairs, fails: bytes) -> None:
    with wire(*between["inbound"], port=8094 if b"500" in fails else 8095) as line:
        for answer, seconds in ((OK, 0.2), (fails, 0.0)):
            line.near.sendall(ASKING)
            read(line.far)
            time.sleep(seconds)
            line.far.sendall(answer)
            assert report(read(line.near, b"hi")) >= 0.2


def test_while_nothing_was_measured_nothing_is_reported(between: Pairs) -> None:
    """Nor is what the application says instead: replicas of a Service are compared by one measure."""
    claims = OK.replace(b"200 OK", b"500 No").replace(b"Content", b"endpoint-load-metrics: mine\r\nContent")
    with wire(*between["inbound"], port=8096) as line:
        line.near.sendall(ASKING)
        read(line.far)
        line.far.sendall(claims)
        assert LOAD_REPORT.encode() not in read(line.near, b"hi")
