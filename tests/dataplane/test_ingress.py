"""What an ingress sidecar tells a caller's: that the application was never reached, and how long it takes.

The tests are that caller's sidecar, on a wire to a pod whose own it is about.
"""

import re
import socket
import time
from contextlib import closing

import pytest

from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED
from tests import build
from tests.apiserver.processes import eventually
from tests.dataplane.exchange import Answer, exchange, request
from tests.dataplane.lab import Pod, application, manifest
from tests.dataplane.pairs import IDLE as DOES_NOTHING
from tests.dataplane.pairs import Pairs, Way
from tests.dataplane.wire import read, wire

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


# It may have been


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


# How long the application takes


def report(answer: bytes) -> float:
    """Seconds."""
    found = re.search(
        LOAD_REPORT.encode() + rb": TEXT application_utilization=([0-9.]+),rps_fractional=1000\r\n", answer
    )
    assert found, answer
    return float(found[1])


def test_whoever_asks_is_told_how_long_the_application_takes(between: Pairs) -> None:
    with wire(*between["inbound"], port=8090) as line:
        for seconds, least, most in ((0.2, 0.2, 0.3), (0.0, 0.18, 0.28), (0.0, 0.16, 0.26), (0.4, 0.28, 0.4)):
            line.near.sendall(ASKING)
            assert ASKS_LOAD.encode() not in read(line.far)
            time.sleep(seconds)
            line.far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            assert least <= report(read(line.near, b"hi")) <= most
