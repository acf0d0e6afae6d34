"""Simulated proxies: streams that speak the delta protocol to a real server, as Envoy does."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from controlplane.xds.snapshot import Kind
from controlplane.xds.transport import METHOD

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]


@dataclass(eq=False)
class Proxy:
    """One stream. `heard` is set at each response, which is accepted at once unless `mute`."""

    call: Any
    node: str
    mute: bool = False
    holds: dict[Kind, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    responses: list[DeltaDiscoveryResponse] = field(default_factory=list)
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one message at a time

    async def ask(self, kind: Kind | str, *names: str, **more: Any) -> None:
        async with self.writing:
            await self.call.write(asking(self.node, kind, *names, **more))

    async def listen(self) -> None:
        """Until the stream ends."""
        while (data := await self.call.read()) is not grpc.aio.EOF:
            response = DeltaDiscoveryResponse.FromString(data)
            self._take(response)
            if not self.mute:
                await self.ask(response.type_url, response_nonce=response.nonce)
            async with self.heard:
                self.heard.notify_all()

    async def until(self, kind: Kind, holds: dict[str, str], seconds: float = 10) -> None:
        """Raises TimeoutError if it does not come to hold that."""
        async with asyncio.timeout(seconds), self.heard:
            await self.heard.wait_for(lambda: self.holds[kind] == holds)

    async def told(self, kind: Kind, number: int, seconds: float = 20) -> None:
        """Raises TimeoutError if it does not come to hold as many."""
        async with asyncio.timeout(seconds), self.heard:
            await self.heard.wait_for(lambda: len(self.holds[kind]) == number)

    def _take(self, response: DeltaDiscoveryResponse) -> None:
        self.responses.append(response)
        held = self.holds[Kind(response.type_url)]
        held.update({one.name: one.version for one in response.resources})
        for name in response.removed_resources:
            held.pop(name, None)


def asking(node: str, kind: Kind | str, *names: str, **more: Any) -> bytes:
    """A request."""
    request = DeltaDiscoveryRequest(type_url=str(kind), resource_names_subscribe=names, **more)
    request.node.id = node
    data: bytes = request.SerializeToString()
    return data


def channel(port: int, ca: bytes | None = None, name: str = "localhost", options: Sequence[Any] = OPTIONS) -> Any:
    """A connection of its own, by TLS if there is a CA to trust."""
    if ca is None:
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
    more = [*options, ("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca), options=more)


def call(channel: Any, token: str | None = None) -> Any:
    """A stream."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    return channel.stream_stream(METHOD)(metadata=metadata)


async def refusal(stream: Any) -> Any:
    """The status of a stream that the server ends."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return await stream.code()


def status(port: int, token: str, requests: Iterable[bytes]) -> tuple[Any, str]:
    """With what a stream ends, and why, that sends all these, whatever it is told. Blocks.

    gRPC's client for asyncio replaces the server's status by one of its own, INTERNAL, when it writes to a stream that
    has ended (grpc/grpc#36066); its other clients keep it.
    """
    metadata = [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as connection:
        stream = connection.stream_stream(METHOD)(iter(requests), timeout=60, metadata=metadata)
        with suppress(grpc.RpcError):
            deque(stream, maxlen=0)  # what is not read lies before the status
        return stream.code(), stream.details()


@asynccontextmanager
async def connected(
    port: int,
    node: str = "web-0.shop",
    ca: bytes | None = None,
    token: str | None = None,
    mute: bool = False,
    name: str = "localhost",
) -> AsyncIterator[Proxy]:
    """A proxy whose stream is open, and ends afterwards. It asks for a server of that name, if it trusts anybody."""
    async with channel(port, ca, name) as connection:
        proxy = Proxy(call(connection, token), node, mute)
        listening = asyncio.create_task(proxy.listen())
        try:
            yield proxy
        finally:
            proxy.call.cancel()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
