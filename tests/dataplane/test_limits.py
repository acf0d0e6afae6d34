"""Every row of the list of what Envoy cannot keep is true: nothing in it is out of date."""

import re
import socket
import time

import pytest

from controlplane.bootstrap import Bootstrap, render
from tests import build
from tests.dataplane import limits
from tests.dataplane.lab import manifest
from tests.dataplane.limits import EXCHANGES, Limit
from tests.dataplane.network import Family
from tests.dataplane.pairs import IDLE as DOES_NOTHING
from tests.dataplane.pairs import OPAQUE, Pairs, Way
from tests.dataplane.wire import dial, read, read_all, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

ways = pytest.mark.parametrize("way", ["outbound", "inbound"])
GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
DATE = re.compile(rb"date: [^\r]*\r\n")


@ways
@pytest.mark.parametrize("limit", EXCHANGES, ids=lambda limit: limit.what[:40])
def test_what_changes_changes_as_the_table_says(between: Pairs, way: Way, limit: Limit) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(limit.request)
        if limit.arrives is not None:
            assert read(line.far, end(limit.arrives)) == with_proto(limit.arrives)
            line.far.sendall(limit.answer)
        assert undated(read(line.near, end(limit.returns)), limit) == limit.returns


def end(message: bytes) -> bytes:
    """What comes last in a message: its body, or the empty line."""
    return message.partition(b"\r\n\r\n")[2][-5:] or b"\r\n\r\n"


def with_proto(head: bytes) -> bytes:
    """The first row of the table holds for each request."""
    first, end, body = head.partition(b"\r\n\r\n")
    if limits.PROTO in head:
        return head
    lines = first.split(b"\r\n")
    place = next((n for n, line in enumerate(lines) if line.startswith((b"content-length", b"Transfer"))), len(lines))
    return b"\r\n".join([*lines[:place], limits.PROTO[:-2], *lines[place:]]) + end + body


def undated(answer: bytes, limit: Limit) -> bytes:
    """The second holds for each answer of Envoy's own."""
    return DATE.sub(b"date: now\r\n" if b"date: now" in limit.returns else b"", answer)


@ways
def test_a_client_that_closes_its_sending_side_with_its_first_bytes_gets_no_answer(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(b"\x00")
        line.near.shutdown(1)
        assert ended(line.near)


@ways
def test_an_http_client_that_closes_its_sending_side_gets_no_answer(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(GET)
        read(line.far)
        line.near.shutdown(1)
        assert ended(line.near)


def ended(end: socket.socket) -> bool:
    """Whether the other side has closed, one way or another, and said nothing."""
    try:
        return read_all(end) == b""
    except ConnectionResetError:
        return True


@ways
def test_a_long_request_line_arrives(between: Pairs, way: Way) -> None:
    sent = b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: web\r\n\r\n"
    with wire(*between[way]) as line:
        line.near.sendall(sent)
        assert read(line.far).replace(limits.PROTO, b"") == sent


@ways
def test_a_body_that_ends_with_the_connection_is_sent_on_in_chunks(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(GET)
        read(line.far)
        line.far.sendall(b"HTTP/1.1 200 OK\r\n\r\nbody")
        line.far.close()
        assert read(line.near, b"0\r\n\r\n").endswith(b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")


@ways
def test_an_early_answer_closes_the_connection(between: Pairs, way: Way) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\n")
        read(line.far)
        line.far.sendall(limits.OK)
        assert b"connection: close" in read(line.near)


@ways
@pytest.mark.parametrize(
    "headers", [b"X-A: 1\r\n" * 1001, b"X-A: " + b"a" * 257 * 1024 + b"\r\n"], ids=["1,001", "257 KB"]
)
def test_more_headers_than_the_limit_are_refused(between: Pairs, way: Way, headers: bytes) -> None:
    with wire(*between[way]) as line:
        line.near.sendall(GET[:-2] + headers + b"\r\n")
        assert read(line.near).startswith(b"HTTP/1.1 431 ")
    with wire(*between[way]) as line:
        line.near.sendall(GET)
        read(line.far)
        line.far.sendall(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n")
        assert read(line.near).startswith(b"HTTP/1.1 502 ")


@ways
def test_a_port_on_which_nothing_listens_is_a_503_or_an_end(between: Pairs, way: Way) -> None:
    client, server = between[way]

    with dial(client, server.address["ipv4"], 7777) as near:
        near.sendall(GET)
        assert read(near).startswith(b"HTTP/1.1 503 ")
    with dial(client, server.address["ipv4"], OPAQUE) as near:
        assert read_all(near) == b""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_application_sees_its_own_pods_address(between: Pairs, family: Family) -> None:
    with wire(*between["inbound"], family=family) as line:
        line.near.sendall(GET)
        seen = line.far.getpeername()[0]
    assert seen.removeprefix("::ffff:") == between["inbound"][1].address[family]


@pytest.mark.parametrize(("way", "waits"), [("outbound", 0.5), ("inbound", 0.5), ("both", 1.0)])
def test_a_server_that_speaks_first_waits_at_each_sidecar(between: Pairs, way: Way, waits: float) -> None:
    with wire(*between[way]) as line:
        began = time.monotonic()
        line.far.sendall(b"hello\n")
        assert read(line.near, b"\n") == b"hello\n"
        assert time.monotonic() - began > waits - 0.1


def test_these_are_the_only_times_that_end_anything() -> None:
    """By the configuration: an hour is too long to wait."""
    text = render(Bootstrap(connect_timeout_seconds=7))["bootstrap-dual.json"]
    times = set(re.findall(r'"(\w*timeout\w*)": "([0-9.]+s)"', text))
    assert times == {
        ("timeout", "0s"),  # of a request
        ("stream_idle_timeout", "0s"),
        ("idle_timeout", "0s"),  # of TCP
        ("idle_timeout", "3600s"),
        ("idle_timeout", "55s"),
        ("connect_timeout", "7s"),
        ("connect_timeout", "1s"),  # to the admin socket
        ("listener_filters_timeout", "0.5s"),
    }


def test_a_server_that_does_not_accept_is_given_up(between: Pairs) -> None:
    settings = build.operator("bootstrap: {connectTimeoutSeconds: 1}")
    pod = between.lab.pod(manifest("web", DOES_NOTHING), settings=settings)
    between.lab.node.run("iptables-nft", "-A", "FORWARD", "-d", "10.99.0.1", "-j", "DROP")
    with dial(pod, "10.99.0.1", 80) as near:
        near.sendall(GET)
        assert read(near).startswith(b"HTTP/1.1 503 ")


def test_an_answer_that_breaks_off_ends_a_second_later(between: Pairs) -> None:
    with wire(*between["both"]) as line:
        line.near.sendall(GET)
        read(line.far)
        line.far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        read(line.near, b"part")
        began = time.monotonic()
        line.far.close()
        assert line.near.recv(1) == b""
        assert time.monotonic() - began < 3
