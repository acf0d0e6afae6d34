"""HTTP/1 by hand: bytes out, bytes back. A library would hide what a proxy changes."""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 5  # of silence, after which nothing more is expected


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    @property
    def received(self) -> bytes:
        """The request's head as echo.py received it, without what Envoy adds to every request (limits.py)."""
        kept = [line for line in self.body.split(b"\r\n") if not _ADDED.match(line)]
        return b"\r\n".join(kept)

    def header(self, name: str) -> bytes | None:
        found = re.search(
            rb"^" + re.escape(name.encode()) + rb":[ \t]*(.*?)\r?$", self.head, re.IGNORECASE | re.MULTILINE
        )
        return found and found[1]


_ADDED = re.compile(rb"(x-request-id|x-forwarded-proto):", re.IGNORECASE)


def request(*lines: str) -> bytes:
    """A head of these lines."""
    return "\r\n".join([*lines, "", ""]).encode()


def exchange(address: str, port: int, sent: bytes, *, then: bytes = b"") -> Answer:
    """The answer to `sent`; `then` is sent once its head is there, and what follows is body."""
    with socket.create_connection((address, port), timeout=SECONDS) as connection:
        connection.sendall(sent)
        return receive(connection, then=then)


def receive(connection: socket.socket, *, then: bytes = b"") -> Answer:
    """One response: as long as it says, or until the other side closes or is silent."""
    came = _until(connection, b"", lambda came: b"\r\n\r\n" in came)
    head, _, body = came.partition(b"\r\n\r\n")
    if then:
        connection.sendall(then)
        body = _until(connection, body, lambda came: came.count(b"\r\n\r\n") >= 2)
    answer = Answer(head, body)
    length = answer.header("content-length")
    if answer.header("transfer-encoding"):
        body = _until(connection, body, lambda came: came.endswith(b"0\r\n\r\n"))
    elif length:
        body = _until(connection, body, lambda came: len(came) >= int(length))
    elif not then:
        body = _until(connection, body, lambda _: False)
    return Answer(head, body)


def _until(connection: socket.socket, came: bytes, done: Callable[[bytes], bool]) -> bytes:
    try:
        while not done(came) and (more := connection.recv(65536)):
            came += more
    except (TimeoutError, ConnectionResetError):
        pass
    return came
