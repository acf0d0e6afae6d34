"""A DNS server for a lab, on its node: it knows the addresses that a test gives it, and remembers what it was asked."""

import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

from tests.dataplane.netns import NetNs

A, AAAA, NO_SUCH_NAME = 1, 28, 3


@contextmanager
def dns(node: NetNs, names: Mapping[str, str]) -> Iterator[list[str]]:
    """Serves `names` (each with its address, of either family) until the end; yields what was asked so far."""
    asked: list[str] = []

    def serve() -> None:
        while True:
            question, asker = server.recvfrom(1500)
            if not question:
                return
            server.sendto(_answer(question, names, asked), asker)

    with node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("", 53))
        thread = Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            with node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stop:
                stop.sendto(b"", ("127.0.0.1", 53))
            thread.join()


def _answer(query: bytes, names: Mapping[str, str], asked: list[str]) -> bytes:
    """RFC 1035, 4.1: header, the question again, and one record if the name has an address of that family."""
    labels, place = [], 12
    while size := query[place]:
        labels.append(query[place + 1 : place + 1 + size].decode())
        place += 1 + size
    name, end = ".".join(labels).lower(), place + 5
    (kind,) = struct.unpack("!H", query[place + 1 : place + 3])
    asked.append(name)
    address = ipaddress.ip_address(names[name]) if name in names else None
    record = b""
    if address is not None and kind == (A if address.version == 4 else AAAA):
        record = struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(address.packed)) + address.packed
    flags = 0x8180 if name in names else 0x8180 | NO_SUCH_NAME
    header = query[:2] + struct.pack("!5H", flags, 1, int(bool(record)), 0, 0)
    return header + query[12:end] + record
