"""A program that opens connections to a TLS port and ends no handshake, in three ways, until its input ends.

With a CA it does end them, and says nothing more than that it speaks HTTP/2. `python -m tests.soak.flood PORT COUNT
[CA]` prints `open` when it has opened them all; a process of its own, so that what it costs delays nobody who measures.
"""

import itertools
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and no SETTINGS that differ
SPARE = 100  # descriptors for all else


@contextmanager
def flooding(port: int, count: int, ca: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs it; it prints `open` when all are, and whatever is left of them ends with the block."""
    command = [sys.executable, "-m", __name__, str(port), str(count), *([str(ca)] if ca else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def main(port: int, count: int, ca: str = "") -> None:
    allow(count)
    opened = list(_idle(port, count, ca) if ca else _begun(port, count))
    print("open", flush=True)
    sys.stdin.read()
    del opened


def _begun(port: int, count: int) -> Iterator[socket.socket]:
    greeting = hello()
    said = itertools.cycle(
        (b"", greeting[:50], greeting)
    )  # nothing; half a hello; a hello, and no more after the answer
    for _, words in zip(range(count), said, strict=False):
        connection = socket.create_connection(("127.0.0.1", port))
        with suppress(OSError):  # it may have given way already
            connection.sendall(words)
        yield connection


def _idle(port: int, count: int, ca: str) -> Iterator[socket.socket]:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    for _ in range(count):
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port))
            wrapped = context.wrap_socket(connection, server_hostname="localhost")
            wrapped.sendall(PREFACE)
            yield wrapped


def allow(connections: int) -> None:
    """Raises SystemExit if the machine gives no process so many descriptors."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < connections + SPARE:
        sys.exit(f"{connections} connections need as many descriptors, and the hard limit is {most}: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def hello() -> bytes:
    """What a client says first."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
