"""A client that treats a webhook as kube-apiserver does, and costs less than the webhook that it loads.

HTTP/1.1 over TLS 1.3, verified and without resumption; keep-alive; one request at a time on each connection.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from tests.bench.loop import READABLE, WRITABLE, Conversation, run

HOST = "localhost"
CHUNK = 64 * 1024  # bytes


class WrongAnswerError(Exception):
    """The webhook answered with something else than a patch."""


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook on loopback, and how to trust it."""

    port: int
    tls: ssl.SSLContext
    path: str = "/inject"

    def request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.path}?timeout=5s HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nUser-Agent: kube-apiserver-admission"
            f"\r\nContent-Length: {len(body)}\r\nAccept: application/json, */*\r\nContent-Type: application/json"
            "\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        return head.encode() + body


def trusting(authority: Path) -> ssl.SSLContext:
    """A context for clients that trust this CA only."""
    context = ssl.create_default_context(cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@dataclass(slots=True)
class Answers:
    """What came back: the seconds that each answer took, and the last one's body. Each is looked at as it comes."""

    seconds: list[float] = field(default_factory=list)
    last: bytes = b""

    def add(self, seconds: float, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 ") or b'"JSONPatch"' not in answer:
            raise WrongAnswerError(answer[:500].decode(errors="replace"))
        self.seconds.append(seconds)
        self.last = answer.partition(b"\r\n\r\n")[2]


@contextmanager
def connections(target: Target, count: int) -> Iterator[list[ssl.SSLSocket]]:
    """That many connections, their handshakes done."""
    sockets: list[ssl.SSLSocket] = []
    try:
        run(connect(target, sockets.append) for _ in range(count))
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def keep_busy(target: Target, sockets: Iterable[ssl.SSLSocket], bodies: Iterator[bytes]) -> Answers:
    """Sends the bodies over the connections, on each the next as soon as the last is answered."""
    answers = Answers()

    def converse(sock: ssl.SSLSocket) -> Conversation:
        for body in bodies:
            yield from exchange(sock, target.request(body), answers.add)

    run(converse(sock) for sock in sockets)
    return answers


def pace(target: Target, sockets: Iterable[ssl.SSLSocket], bodies: Iterator[bytes], per_second: float) -> Answers:
    """Sends the bodies at that rate, answered or not, as long as a connection is free."""
    answers, start = Answers(), perf_counter()
    schedule = ((start + number / per_second, body) for number, body in enumerate(bodies))

    def converse(sock: ssl.SSLSocket) -> Conversation:
        for due, body in schedule:
            yield due
            yield from exchange(sock, target.request(body), answers.add)

    run(converse(sock) for sock in sockets)
    return answers


def burst(target: Target, bodies: Iterable[bytes]) -> Answers:
    """Sends all bodies at once, each over a connection of its own; their seconds count from the start of the burst.

    What a client can do before it connects is done before the start: this one has a single thread, and its own work
    would count as the server's.
    """
    answers, ready = Answers(), [(_Fresh(target), target.request(body)) for body in bodies]
    start = perf_counter()
    run(one.send(request, lambda answer: answers.add(perf_counter() - start, answer)) for one, request in ready)
    return answers


class _Fresh:
    """A connection that is still to be opened; its first flight is ready."""

    def __init__(self, target: Target) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = target.tls.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._raw, self._port = _socket(), target.port
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()

    def send(self, request: bytes, answered: Callable[[bytes], None]) -> Conversation:
        with self._raw:
            self._raw.connect_ex(("127.0.0.1", self._port))
            yield self._raw.fileno(), WRITABLE
            yield from self._flush()
            while not self._shakes_hands():
                yield from self._receive()
            self._tls.write(request)
            yield from self._flush()
            answer = b""
            while not complete(answer):
                yield from self._receive()
                with suppress(ssl.SSLWantReadError):
                    while chunk := self._tls.read(CHUNK):
                        answer += chunk
            answered(answer)

    def _shakes_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _flush(self) -> Conversation:
        rest = memoryview(self._outgoing.read())
        while rest:
            try:
                rest = rest[self._raw.send(rest) :]
            except BlockingIOError:
                yield self._raw.fileno(), WRITABLE

    def _receive(self) -> Conversation:
        yield self._raw.fileno(), READABLE
        received = self._raw.recv(CHUNK)
        if not received:
            raise ConnectionResetError("the webhook hung up before its answer")
        self._incoming.write(received)


def _socket() -> socket.socket:
    raw = socket.socket()
    raw.setblocking(False)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Go does
    return raw


def connect(target: Target, connected: Callable[[ssl.SSLSocket], None]) -> Conversation:
    """Opens a connection, and hands it over before its handshake, so that it can be closed whatever becomes of it."""
    raw = _socket()
    with suppress(BlockingIOError):
        raw.connect(("127.0.0.1", target.port))
    yield raw.fileno(), WRITABLE
    sock = target.tls.wrap_socket(raw, server_hostname=HOST, do_handshake_on_connect=False)
    connected(sock)
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            yield sock.fileno(), READABLE


def exchange(sock: ssl.SSLSocket, request: bytes, answered: Callable[[float, bytes], None]) -> Conversation:
    """Sends a request, and hands over how many seconds its answer took, and the answer.

    Raises OSError if the connection ends before it.
    """
    start = perf_counter()
    rest = memoryview(request)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except ssl.SSLWantWriteError:
            yield sock.fileno(), WRITABLE
    answer = b""
    while not complete(answer):
        try:
            chunk = sock.recv(CHUNK)
        except ssl.SSLWantReadError:
            yield sock.fileno(), READABLE
            continue
        if not chunk:
            raise ConnectionResetError(f"the webhook hung up after {len(answer)} bytes of an answer")
        answer += chunk
    answered(perf_counter() - start, answer)


def complete(answer: bytes) -> bool:
    """Whether this is all of an answer of HTTP/1.1. In chunks it is of text without CRLF, as JSON is."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    _, named, rest = head.lower().partition(b"\r\ncontent-length:")
    return len(body) >= int(rest.partition(b"\r\n")[0]) if named else body.endswith(b"0\r\n\r\n")
