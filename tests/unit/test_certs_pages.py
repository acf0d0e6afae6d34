"""The port of metrics and health of certs, and who does not leave it to others."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from certs import pages
from tests.apiserver.processes import eventually
from tests.serving import is_closed


@pytest.fixture
def port() -> Iterator[int]:
    with pages.serving({"/healthz": lambda: (True, b""), "/metrics": lambda: (True, b"a 1\n")}, "127.0.0.1", 0) as port:
        yield port


def ask(port: int, path: str, address: str = "127.0.0.2") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def test_who_holds_connections_open_keeps_no_probe_from_its_answer(port: int) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert ask(port, "/healthz") == 200
        assert threading.active_count() <= before + pages.OF_ONE_ADDRESS + 1


def test_who_is_slow_is_disconnected(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as slow:
        eventually(lambda: is_closed(slow), "it was closed", seconds=10)


def test_who_leaves_in_the_middle_is_not_told_of(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert ask(port, "/metrics") == 200
    assert capfd.readouterr().err == ""
