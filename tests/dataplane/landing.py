"""Where a connection lands: listeners that say which they are and where their caller was going, and who asks them."""

import ipaddress
import selectors
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Thread

from tests.dataplane.netns import NetNs

ORIGINAL_DST = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, linux/netfilter_ipv4.h and _ipv6/ip6_tables.h
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75  # linux/in.h and in6.h


@dataclass(frozen=True, slots=True)
class Landing:
    """The host and port that took a connection, and the address and port that its client dialled."""

    host: str
    port: int
    dialled: tuple[str, int]


@contextmanager
def listeners(net: NetNs, host: str, ports: Sequence[int], *, transparent: bool = False) -> Iterator[None]:
    """Listeners of both families on these ports, which answer every connection with where it landed."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for port in ports:
            for family in (socket.AF_INET, socket.AF_INET6):
                made = net.call(lambda: _listen(family, port, transparent))  # noqa: B023  called at once
                selector.register(stack.enter_context(made), selectors.EVENT_READ, (host, port))
        over, wake = socket.socketpair()
        stack.enter_context(over)
        selector.register(over, selectors.EVENT_READ)
        thread = Thread(target=_answer, args=(selector, over))
        thread.start()
        try:
            yield
        finally:
            wake.close()
            thread.join()


def dial(net: NetNs, address: str, port: int, *, uid: int = 0, gid: int = 0) -> Landing:
    """Where a connection from here to there lands. Raises OSError if nothing takes it."""

    def connect() -> bytes:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(200)

    host, landed, dialled, dialled_port = net.call(connect, uid=uid, gid=gid).decode().split()
    return Landing(host, int(landed), (dialled, int(dialled_port)))


def _listen(family: socket.AddressFamily, port: int, transparent: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        level, option = (socket.SOL_IP, IP_TRANSPARENT) if family == socket.AF_INET else (41, IPV6_TRANSPARENT)
        made.setsockopt(level, option, 1)
    made.bind(("", port))
    made.listen(64)
    return made


def _answer(selector: selectors.BaseSelector, over: socket.socket) -> None:
    while True:
        for key, _ in selector.select():
            if key.fileobj is over:
                return
            host, port = key.data
            connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
            with connection:
                address, dialled = _dialled(connection)
                connection.sendall(f"{host} {port} {address} {dialled}".encode())


def _dialled(connection: socket.socket) -> tuple[str, int]:
    """The original destination; after TPROXY, and without any translation, that is the socket's own address."""
    try:
        if connection.family == socket.AF_INET6:
            found = connection.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, 28)
            port, packed = struct.unpack("!2xH4x16s4x", found)
        else:
            found = connection.getsockopt(socket.SOL_IP, ORIGINAL_DST, 16)
            port, packed = struct.unpack("!2xH4s8x", found)
    except OSError:  # a namespace that tracks no connections
        address, port, *_ = connection.getsockname()
        return address, port
    return str(ipaddress.ip_address(packed)), port
