"""What a client may do to the port of discovery, with a token or without one: it is alone with what it costs."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import grpc
import pytest
from google.rpc.status_pb2 import Status
from prometheus_client import CollectorRegistry

from controlplane.xds import session
from controlplane.xds.authenticator import Authenticator
from controlplane.xds.door import COMPLAINTS, STREAMS_PER_POD
from controlplane.xds.identity import Identity, believe
from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.server import Server
from controlplane.xds.session import NAMES
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.topic import MAX_NAMES
from controlplane.xds.transport import Limits
from tests.logs import notices
from tests.proxies import Proxy, asking, call, channel, connected, status
from tests.soak.flood import allow
from tests.tokens import token
from tests.worlds import World, world

CDS, EDS, LDS, RDS = Kind
STREAMS = 8  # of a connection, by HTTP/2's setting


def callers(identity: Identity) -> Caller:
    return Caller(identity.namespace, identity.pod)


class Running:
    """A server that believes tokens, and what it counts."""

    def __init__(self, executor: ThreadPoolExecutor, limits: Limits | None) -> None:
        self.registry = CollectorRegistry()
        self.server = Server(Metrics(self.registry), Authenticator(believe, executor, time.time), limits)
        self.port = 0

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0

    @asynccontextmanager
    async def proxy(self, pod: str = "shop/web-0") -> AsyncIterator[Proxy]:
        namespace, name = pod.split("/")
        async with connected(self.port, f"{name}.{namespace}", token=token(pod)) as proxy:
            yield proxy

    async def serves(self, pod: str = "shop/web-0") -> None:
        """That pod learns of what there is."""
        async with self.proxy(pod) as proxy:
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})


@asynccontextmanager
async def running(snapshot: World | None = None, limits: Limits | None = None) -> AsyncIterator[Running]:
    with ThreadPoolExecutor(4) as executor:
        here = Running(executor, limits)
        here.server.adopt(snapshot or world("a=1", "a=1"), callers)
        here.port = await here.server.bind("127.0.0.1:0", None)
        await here.server.start()
        try:
            yield here
        finally:
            await here.server.stop(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


# Places


async def crowd(here: Running, stack: AsyncExitStack, *, unread: bool) -> None:
    """40 streams of one pod that say nothing, or read nothing."""
    for _ in range(5):
        connection = await stack.enter_async_context(channel(here.port))
        for _ in range(8):
            stream = call(connection, token("evil/web-0"))
            stack.callback(stream.cancel)
            if unread:
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await Proxy(stream, "web-0.evil").ask(EDS, "large")
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("unread", [False, True], ids=["say nothing", "read nothing"])
def test_streams_of_one_pod_take_no_place_of_others(unread: bool) -> None:
    """What is not read lies before the status with which a stream ends."""

    async def story() -> None:
        snapshot = World({CDS: {"a": "1"}, EDS: {"large": "x" * 1_000_000}})
        async with running(snapshot, Limits(streams=20)) as here, AsyncExitStack() as stack:
            await crowd(here, stack, unread=unread)
            await here.serves()

    run(story)


def test_ten_thousand_streams_of_one_pod_take_the_place_of_three_and_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    allow(2 * 10_000 // STREAMS)  # this process is both ends

    async def story() -> None:
        async with running() as here, AsyncExitStack() as stack:
            for _ in range(10_000 // STREAMS):
                connection = await stack.enter_async_context(channel(here.port))
                proxies = [Proxy(call(connection, token("evil/web-0")), "web-0.evil") for _ in range(STREAMS)]
                for proxy in proxies:
                    stack.callback(proxy.call.cancel)
                # One that gave way already cannot be written to.
                await asyncio.gather(*(proxy.ask(EDS, "a") for proxy in proxies), return_exceptions=True)
            async with asyncio.timeout(30):  # some few are cancelled before they are heard of
                while here.counted("stream_ends_total", reason="replaced") < 9_000:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await here.serves()
            assert here.counted("streams") <= STREAMS_PER_POD + 1

    run(story)
    assert notices(caplog) == ["ended", "slowed"]


def test_who_connects_and_says_nothing_is_disconnected() -> None:
    async def story() -> None:
        async with running(limits=Limits(handshake=0.2)) as here:
            with socket.create_connection(("127.0.0.1", here.port), timeout=10) as connection:
                assert await asyncio.to_thread(_until_closed, connection)
            await here.serves()

    run(story)


def _until_closed(connection: socket.socket) -> bool:
    """The server's own preface may come first."""
    while connection.recv(1024):
        pass
    return True


# What it asks for


def test_a_new_stream_is_no_new_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BURST", 20.0)
    monkeypatch.setattr(session, "RATE", 0.1)

    async def story() -> None:
        async with running() as here:
            async with here.proxy("evil/web-0") as flood:
                for _ in range(30):
                    await flood.ask(EDS, "a")
                await here.serves()
            async with here.proxy("evil/web-0") as again:
                for _ in range(30):
                    await again.ask(EDS, "a")
                await here.serves()
            # Of both streams, however much of the first one was left to read when it ended.
            assert here.counted("requests_total", type="endpoints") <= session.BURST + 1

    run(story)


def test_a_request_with_many_names_counts_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BURST", 20.0)
    monkeypatch.setattr(session, "RATE", 0.1)
    names = [f"n{number}" for number in range(25 * NAMES)]

    async def story() -> None:
        async with running() as here, here.proxy("evil/web-0") as flood:
            for _ in range(5):
                await flood.ask(EDS, *names)
            await here.serves()
            assert here.counted("requests_total", type="endpoints") == 1

    run(story)


def test_what_is_told_again_and_again_counts_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BURST", 20.0)
    monkeypatch.setattr(session, "RATE", 0.1)
    large = World({CDS: {f"n{number}": "1" for number in range(10 * NAMES)}})

    async def story() -> None:
        async with running(large) as here, here.proxy("evil/web-0") as flood:
            for _ in range(50):
                await flood.ask(CDS, "*")
            async with here.proxy() as good:
                await good.ask(CDS)
                await good.until(CDS, large.contents[CDS])
            assert here.counted("responses_total", type="cluster") < 6

    run(story)


@pytest.mark.parametrize("kinds", [1, 4])
def test_a_stream_that_asks_for_megabytes_of_names_ends(kinds: int) -> None:
    """370 MB of memory for one pod, seen: three streams, of four types each."""
    requests = [
        asking("web-0.shop", kind, *(f"{part}-{number}".ljust(1000, "x") for number in range(1000)))
        for kind in list(Kind)[:kinds]
        for part in range(8 // kinds)
    ]

    async def story() -> None:
        async with running() as here:
            code, details = await asyncio.to_thread(status, here.port, token(), requests)
            assert (code, details[:5]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "names")
            assert here.counted("stream_ends_total", reason="too_many_names") == 1
            assert here.server.cache.subscriptions() == dict.fromkeys(Kind, 0)

    run(story)


def test_as_many_names_as_a_large_cluster_has_are_served() -> None:
    names = [f"namespace-{number % 100:03}/a-service-of-usual-length-{number}:8080" for number in range(MAX_NAMES // 2)]

    async def story() -> None:
        async with running(World({EDS: dict.fromkeys(names, "1")})) as here, here.proxy() as proxy:
            await proxy.ask(EDS, *names)
            await proxy.until(EDS, dict.fromkeys(names, "1"), seconds=30)

    run(story)


# What it says


def _has_heard(proxy: Proxy, responses: int) -> bool:
    return len(proxy.responses) == responses


def test_a_proxy_that_rejects_everything_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "controlplane")
    names = [f"n{number}" for number in range(40)]

    async def story() -> None:
        async with (
            running(World({CDS: {"a": "1"}, EDS: dict.fromkeys(names, "1")})) as here,
            here.proxy("evil/web-0") as proxy,
        ):
            proxy.mute = True
            for number, name in enumerate(names):
                await proxy.ask(EDS, name)
                async with proxy.heard:
                    await proxy.heard.wait_for(partial(_has_heard, proxy, number + 1))
                bad = Status(message="x" * 100_000)
                await proxy.ask(EDS, response_nonce=proxy.responses[-1].nonce, error_detail=bad)
            await here.serves()
            assert here.counted("nacks_total", type="endpoints") == len(names)

    run(story)
    lines = [record for record in caplog.records if record.getMessage() == "rejected"]
    assert len(lines) == COMPLAINTS
    assert all(len(str(record.__dict__["facts"])) < 500 for record in lines)
