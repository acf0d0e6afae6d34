"""The limits of the port: how many connections and handshakes there may be, and who gives way to whom."""

import json
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests import build
from tests.apiserver.processes import eventually
from tests.bench.bodies import KB, Bodies
from tests.bench.client import Target, burst, trusting
from tests.serving import JSON, Server, exchange, receive, serving

REVIEW = json.dumps(build.review())
HEAD = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(REVIEW)
CONNECTIONS, HANDSHAKES = 32, 16
LIMITS = f"server: {{maxConnections: {CONNECTIONS}, maxHandshakes: {HANDSHAKES}, shutdownGraceSeconds: 0}}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, LIMITS) as one:
        yield one


def failures(server: Server, reason: str) -> float:
    return server.metric("envoy_sidecar_webhook_handshake_failures_total", reason=reason)


def silent(server: Server) -> socket.socket:
    """A connection whose client never begins its handshake."""
    return socket.create_connection(("localhost", server.port))


def ended(connection: socket.socket) -> bool:
    """Whether the server has ended it; a client of ours is sent nothing unasked."""
    return bool(select.select([connection], [], [], 0)[0])


def test_handshakes_beyond_the_limit_end_stale_ones_and_not_who_comes_with_a_real_one(server: Server) -> None:
    with ExitStack() as open_ones:
        opened = [open_ones.enter_context(silent(server)) for _ in range(5 * HANDSHAKES)]
        assert server.post(REVIEW).status == 200
        assert failures(server, "crowded_out") > 3 * HANDSHAKES
        assert server.metric("envoy_sidecar_webhook_connections") <= HANDSHAKES + 1
        eventually(lambda: all(map(ended, opened[: 3 * HANDSHAKES])), "the oldest are ended")


def test_real_handshakes_beyond_the_limit_wait_and_none_is_ended(server: Server) -> None:
    target = Target(server.port, trusting(server.certificate / "ca.crt"))
    bodies = Bodies(6 * KB, differing=False).take(5 * HANDSHAKES)
    assert len(burst(target, bodies).seconds) == 5 * HANDSHAKES  # raises for one that ends otherwise
    assert failures(server, "crowded_out") == 0


def test_a_handshake_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {handshakeSeconds: 1, shutdownGraceSeconds: 0}") as server, silent(server) as one:
        eventually(lambda: ended(one), "it is ended", seconds=10)
        assert failures(server, "timeout") == 1


@pytest.mark.parametrize("garbage", [b"GET /readyz HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 9000])
def test_what_is_no_handshake_is_counted(server: Server, garbage: bytes) -> None:
    with silent(server) as one:
        one.sendall(garbage)
        eventually(lambda: failures(server, "refused") == 1, "it is refused")


def test_a_client_that_leaves_in_its_handshake_is_counted(server: Server) -> None:
    silent(server).close()
    eventually(lambda: failures(server, "gone") == 1, "it is gone")


def test_a_client_that_does_not_trust_us_is_counted(server: Server) -> None:
    with silent(server) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    eventually(lambda: failures(server, "refused") + failures(server, "gone") == 1, "it is counted")


def test_connections_beyond_the_limit_end_those_that_have_been_idle_longest(server: Server) -> None:
    with ExitStack() as open_ones:
        opened = [open_ones.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        used = opened[0]
        used.sendall(HEAD + REVIEW.encode())
        assert receive(used).status == 200
        assert server.post(REVIEW).status == 200
        crowded_out = int(server.metric("envoy_sidecar_webhook_connections_crowded_out_total"))
        assert 1 <= crowded_out <= CONNECTIONS // 4
        eventually(lambda: all(map(ended, opened[1 : 1 + crowded_out])), "the first that were idle are ended")
        assert not any(map(ended, opened[1 + crowded_out :]))
        assert not ended(used)


def test_no_more_connections_are_held_than_the_settings_allow(server: Server) -> None:
    with ExitStack() as open_ones:
        for _ in range(5 * CONNECTIONS):
            open_ones.enter_context(server.connect())
        assert server.metric("envoy_sidecar_webhook_connections") <= CONNECTIONS


def test_while_all_connections_are_in_use_the_next_waits_and_none_is_ended(server: Server) -> None:
    with ExitStack() as open_ones:
        busy = [open_ones.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        for one in busy:
            one.sendall(HEAD)
        in_flight = "envoy_sidecar_webhook_admissions_in_flight"
        eventually(lambda: server.metric(in_flight) == CONNECTIONS, "all are in use")
        with silent(server) as waiting:
            for one in busy:
                one.sendall(REVIEW.encode())
            assert {receive(one).status for one in busy} == {200}
            with server.context().wrap_socket(waiting, server_hostname="localhost") as connection:
                connection.sendall(HEAD + REVIEW.encode())
                assert receive(connection).status == 200


def test_a_flood_of_the_port_of_metrics_leaves_both_ports_working(server: Server) -> None:
    with ExitStack() as open_ones:
        for _ in range(300):
            open_ones.enter_context(socket.create_connection(("localhost", server.metrics_port)))
        assert server.monitor("/healthz").status == 200
        assert server.post(REVIEW).status == 200


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_who_asks_for_another_protocol_is_answered_in_this_one_without_a_word_in_the_log(
    server: Server, protocol: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % protocol)
        assert receive(connection).status == 200
    assert not [line for line in server.log.read_text().splitlines() if "pgrade" in line]


def test_a_handshake_that_is_under_way_when_the_end_begins_is_finished(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {shutdownGraceSeconds: 1}") as server, closing(server.client()) as client:
        with silent(server) as one:
            server.process.terminate()
            eventually(lambda: server.events("stopping"), "it is stopping")
            with server.context().wrap_socket(one, server_hostname="localhost") as connection:
                connection.sendall(HEAD + REVIEW.encode())
                assert receive(connection).status == 200
        assert exchange(client, "POST", "/inject", REVIEW, JSON).status == 200
        assert server.process.wait(10) == 0
