"""A connection of which a test holds both ends: the client's in one pod, the server's in another."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from tests.apiserver.processes import eventually
from tests.dataplane.lab import Pod
from tests.dataplane.network import Family

SECONDS = 5  # within which whatever is expected comes


@dataclass(frozen=True)
class Wire:
    """The client's end, and the server's, which is there once something came through."""

    near: socket.socket
    listener: socket.socket
    stack: ExitStack

    @cached_property
    def far(self) -> socket.socket:
        """The server's end of the first connection to it."""
        return accept(self.listener, self.stack)


@contextmanager
def wire(client: Pod, server: Pod, *, family: Family = "ipv4", port: int = 8080) -> Iterator[Wire]:
    """A connection from the client's application to a port of the server's."""
    with ExitStack() as stack:
        listener = stack.enter_context(listening(server, port))
        near = stack.enter_context(dial(client, server.address[family], port))
        yield Wire(near, listener, stack)


def listening(pod: Pod, port: int) -> socket.socket:
    """A socket of the pod's application that accepts connections of both families."""
    return pod.call(lambda: eventually(lambda: _listener(port), f"port {port} is free"))


def _listener(port: int) -> socket.socket | None:
    """None while the port is taken: a process that is between fork and exec still holds the last test's socket."""
    try:
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return None


def dial(pod: Pod, address: str, port: int) -> socket.socket:
    """A connection of the pod's application."""
    return pod.call(lambda: socket.create_connection((address, port), timeout=SECONDS))


def accept(listener: socket.socket, stack: ExitStack) -> socket.socket:
    """The next connection, closed with `stack`."""
    listener.settimeout(SECONDS)
    accepted, _ = listener.accept()
    accepted.settimeout(SECONDS)
    return stack.enter_context(accepted)


def read(end: socket.socket, until: bytes = b"\r\n\r\n") -> bytes:
    """What arrives, up to and with `until`; less if the other side closes."""
    came = b""
    while until not in came and (more := end.recv(65536)):
        came += more
    return came


def read_all(end: socket.socket) -> bytes:
    """What arrives until the other side closes."""
    came = b""
    while more := end.recv(65536):
        came += more
    return came
