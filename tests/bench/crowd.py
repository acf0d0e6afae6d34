"""python -m tests.bench.crowd PROXIES NAMESPACES PORT CA: that many proxies on one server, each by TLS and a stream.

They subscribe and accept as Envoy does, by the least of HTTP/2 that gRPC needs (RFC 9113, 7541), so that it is the
server that is measured. Commands come by standard input: `next` waits until every proxy has heard one response more
than at the last `mark`, and tells when each did; `quiet` waits until nobody has heard anything for a second; `edges`
counts the proxies that know a Service by these endpoints and no others.
"""

import asyncio
import json
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from ipaddress import IPv4Address
from time import monotonic
from typing import Any

import uvloop
from envoy.config.core.v3.health_check_pb2 import HEALTHY, UNKNOWN
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from controlplane.xds.snapshot import Kind
from controlplane.xds.transport import METHOD
from tests.tokens import token

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, ACK = 4, 1
PLENTY = 1 << 30  # bytes of flow control: more than a proxy hears here
CONNECTING = 1000  # at a time: one process cannot finish 5,000 handshakes in the 10 s that the server gives each
AGAIN = 0.05  # seconds after which Envoy tries again


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload) << 8 | kind)[:4] + struct.pack(">BI", flags, stream) + payload


def headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Literals that nobody indexes."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    length, rest = len(text), bytearray()
    if length < 127:
        return bytes((length,)) + text.encode()
    length -= 127
    while length >= 128:
        rest.append(length % 128 + 128)
        length //= 128
    return bytes((127, *rest, length)) + text.encode()


class Proxy(asyncio.Protocol):
    """One stream, and what was heard by it."""

    def __init__(self, namespace: str, pod: str) -> None:
        self.namespace, self.pod = namespace, pod
        self.heard, self.at, self.without = 0, 0.0, 0
        self.warm = asyncio.get_running_loop().create_future()  # all that it uses has been told
        self.holds: dict[str, bytes] = {}  # assignments by name
        self._bytes, self._message = b"", b""
        self._first = True

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        shown = token(f"{self.namespace}/{self.pod}", pad="x" * 700)  # as long as a real one
        fields = [(":method", "POST"), (":scheme", "https"), (":path", METHOD), (":authority", "localhost")]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), ("authorization", f"Bearer {shown}")]
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, PLENTY))
        opening = frame(WINDOW, 0, 0, struct.pack(">I", PLENTY)) + frame(HEADERS, END_HEADERS, 1, headers(fields))
        transport.write(PREFACE + settings + opening)
        self.ask(Kind.CLUSTER)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 9:
            length, kind, flags = int.from_bytes(self._bytes[:3], "big"), self._bytes[3], self._bytes[4]
            if len(self._bytes) < 9 + length:
                return
            payload, self._bytes = self._bytes[9 : 9 + length], self._bytes[9 + length :]
            self._take(kind, flags, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.warm.done():
            self.warm.set_exception(exc or ConnectionError("the server ended the connection"))

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        match kind:
            case 0:  # DATA
                self._message += payload
                while len(self._message) >= 5:
                    length = int.from_bytes(self._message[1:5], "big")
                    if len(self._message) < 5 + length:
                        return
                    message, self._message = self._message[5 : 5 + length], self._message[5 + length :]
                    self._hear(DeltaDiscoveryResponse.FromString(message))
            case 4 if not flags & ACK:  # SETTINGS
                self._transport.write(frame(SETTINGS, ACK, 0))
            case 6 if not flags & ACK:  # PING
                self._transport.write(frame(PING, ACK, 0, payload))
            case 3 | 7:  # RST_STREAM, GOAWAY
                self._transport.close()
            case _:
                pass

    def ask(self, kind: Kind, *names: str, nonce: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=kind, resource_names_subscribe=names, response_nonce=nonce)
        if self._first:
            request.node.id = f"{self.pod}.{self.namespace}"
            self._first = False
        message = request.SerializeToString()
        self._transport.write(frame(DATA, 0, 1, b"\x00" + struct.pack(">I", len(message)) + message))

    def _hear(self, response: DeltaDiscoveryResponse) -> None:
        self.heard, self.at = self.heard + 1, monotonic()
        kind = Kind(response.type_url)
        self.ask(kind, nonce=response.nonce)
        if kind in (Kind.CLUSTER, Kind.ENDPOINTS):
            self.without += len(response.removed_resources)
        if kind is Kind.ENDPOINTS:
            fresh = {one.name: one.resource.value for one in response.resources}
            self.without += sum(not _healthy(body) for body in fresh.values())
            self.holds |= fresh
        if self.warm.done():
            return
        match kind:
            case Kind.CLUSTER:
                self.ask(Kind.ENDPOINTS, *(one.name for one in response.resources))
                self.ask(Kind.LISTENER)
            case Kind.LISTENER:
                self.ask(Kind.ROUTES, *(one.name.replace("out_", "http_") for one in response.resources))
            case Kind.ROUTES:
                self.warm.set_result(None)
            case Kind.ENDPOINTS:
                pass


def _healthy(assignment: bytes) -> list[str]:
    """The addresses of the endpoints that Envoy would send requests to."""
    groups = ClusterLoadAssignment.FromString(assignment).endpoints
    found = [one for group in groups for one in group.lb_endpoints if one.health_status in (UNKNOWN, HEALTHY)]
    return sorted(one.endpoint.address.socket_address.address for one in found)


class Crowd:
    """All of them."""

    def __init__(self, proxies: int, namespaces: int) -> None:
        self.namespaces = namespaces
        self.proxies = [self._proxy(number) for number in range(proxies)]
        self.marked = [0] * proxies

    def _proxy(self, number: int) -> Proxy:
        return Proxy(f"ns{number % self.namespaces}", f"p{number}")

    async def connect(self, port: int, ca: str) -> dict[str, float]:
        """The seconds until all know all, and how many connections ended before that: their proxies begin anew."""
        trusting = ssl.create_default_context(cafile=ca)
        trusting.set_alpn_protocols(["h2"])
        loop, some, start, refused = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING), monotonic(), 0

        async def attempt(proxy: Proxy, address: str) -> None:
            async with some:
                await loop.create_connection(
                    lambda: proxy,
                    "127.0.0.1",
                    port,
                    local_addr=(address, 0),
                    ssl=trusting,
                    server_hostname="localhost",
                    ssl_handshake_timeout=60,
                )
            await proxy.warm

        async def one(number: int) -> None:
            nonlocal refused
            address = str(IPv4Address("127.1.0.1") + number)  # each from one of its own, as pods have them
            while True:
                try:
                    return await attempt(self.proxies[number], address)
                except OSError:
                    refused += 1
                    self.proxies[number] = self._proxy(number)
                    await asyncio.sleep(AGAIN)

        await asyncio.gather(*map(one, range(len(self.proxies))))
        return {"seconds": monotonic() - start, "refused": refused}

    async def mark(self) -> dict[str, float]:
        self.marked = [proxy.heard for proxy in self.proxies]
        return {}

    async def next(self) -> dict[str, Any]:
        # An event for each would take what is measured.
        while any(proxy.heard <= mark for proxy, mark in zip(self.proxies, self.marked, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        times = sorted(proxy.at for proxy in self.proxies)
        return {"median": times[len(times) // 2], "last": times[-1]}

    async def quiet(self) -> dict[str, float]:
        while max(proxy.at for proxy in self.proxies) > monotonic() - 1:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return {"without": sum(proxy.without for proxy in self.proxies)}

    async def edges(self) -> dict[str, int]:
        """By a Service's name and its endpoints: how many proxies know it so."""
        held = (item for proxy in self.proxies for item in proxy.holds.items())
        return Counter(" ".join((name, *_healthy(assignment))) for name, assignment in held)


async def main(proxies: int, namespaces: int, port: int, ca: str) -> None:
    crowd = Crowd(proxies, namespaces)
    commands: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]]
    commands = {"mark": crowd.mark, "next": crowd.next, "quiet": crowd.quiet, "edges": crowd.edges}
    loop = asyncio.get_running_loop()
    print(json.dumps(await crowd.connect(port, ca)), flush=True)
    while command := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        print(json.dumps(await commands[command]()), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
