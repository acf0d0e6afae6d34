"""The server on loopback, with real gRPC at both ends."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic, thread_time
from weakref import ref

import grpc
import pytest
from prometheus_client import CollectorRegistry

from controlplane.xds import server, session, stream
from controlplane.xds.door import STREAMS_PER_POD
from controlplane.xds.identity import Identity
from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.scope import Scope
from controlplane.xds.server import Server
from controlplane.xds.snapshot import Caller, Kind, Snapshot
from controlplane.xds.topic import MAX_NAMES
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.transport import Limits
from tests import cluster
from tests.logs import notices
from tests.proxies import Proxy, call, channel, connected, refusal
from tests.worlds import World, world

CDS, EDS, LDS, RDS = Kind


def callers(identity: Identity) -> Caller:
    return Caller(identity.namespace, identity.pod)


class Running:
    """A server, its port, and what it counts."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.registry = CollectorRegistry()
        self.server = Server(Metrics(self.registry), None, limits)
        self.port = 0

    def adopt(self, snapshot: Snapshot) -> None:
        self.server.adopt(snapshot, callers)

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0

    async def until(self, name: str, value: float, **labels: str) -> None:
        async with asyncio.timeout(10):
            while self.counted(name, **labels) != value:  # noqa: ASYNC110  what is waited for is the metric itself
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(snapshot: Snapshot, limits: Limits | None = None) -> AsyncIterator[Running]:
    here = Running(limits)
    here.adopt(snapshot)
    here.port = await here.server.bind("127.0.0.1:0", None)
    await here.server.start()
    try:
        yield here
    finally:
        await here.server.stop(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


@dataclass
class Turns:
    """Of a loop: the CPU time of all of them, and of the longest, in seconds."""

    all: float = 0.0
    longest: float = 0.0


@contextmanager
def turning() -> Iterator[Turns]:
    """Looks at the loop's turns meanwhile."""
    turns, start = Turns(), thread_time()

    async def turn() -> None:
        last = start
        while True:
            turns.longest, last = max(turns.longest, thread_time() - last), thread_time()
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    try:
        yield turns
    finally:
        turns.all = thread_time() - start
        turning.cancel()


def test_a_proxy_learns_the_world_and_its_changes() -> None:
    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, connected(here.port) as proxy:
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})
            await proxy.ask(EDS, "a")
            await proxy.until(EDS, {"a": "1"})
            here.adopt(world("a=1 b=1", "a=2"))
            await proxy.until(EDS, {"a": "2"})
            await proxy.until(CDS, {"a": "1", "b": "1"})

    run(story)


def test_what_is_gone_is_taken_away_although_nothing_else_happens() -> None:
    async def story() -> None:
        async with running(world("a=1")) as here, connected(here.port) as proxy:
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})
            here.adopt(world())
            await proxy.until(CDS, {})

    run(story)


def test_resources_arrive_as_they_were_made() -> None:
    large = "v" * 100_000

    async def story() -> None:
        async with running(World({EDS: {"a": large}})) as here, connected(here.port) as proxy:
            await proxy.ask(EDS, "a")
            await proxy.until(EDS, {"a": large})

    run(story)


def test_a_stream_that_ends_leaves_nothing_behind() -> None:
    async def story() -> None:
        async with running(world("a=1")) as here:
            async with connected(here.port) as proxy:
                await proxy.ask(CDS)
                await proxy.until(CDS, {"a": "1"})
                assert here.counted("streams") == 1
            await here.until("streams", 0)
            assert here.server.cache.subscriptions() == dict.fromkeys(Kind, 0)
            assert here.server.debug()["proxies"] == []

    run(story)


async def leaves(proxy: Proxy, _connection: grpc.aio.Channel) -> None:
    proxy.call.cancel()


async def talks_nonsense(proxy: Proxy, _connection: grpc.aio.Channel) -> None:
    await proxy.call.write(b"\xff")


async def asks_for_too_much(proxy: Proxy, _connection: grpc.aio.Channel) -> None:
    await proxy.ask(EDS, *(f"n{number}" for number in range(MAX_NAMES + 1)))


async def comes_too_often(proxy: Proxy, connection: grpc.aio.Channel) -> None:
    others = [Proxy(call(connection), proxy.node) for _ in range(STREAMS_PER_POD)]
    for other in others:
        await other.ask(CDS)
        await other.call.read()
    assert await refusal(proxy.call) is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("end", [leaves, talks_nonsense, asks_for_too_much, comes_too_often])
def test_what_is_known_of_a_stream_that_ended_goes_at_once(
    end: Callable[[Proxy, grpc.aio.Channel], Awaitable[None]],
) -> None:
    """Python looks for what only refers to each other once in hours, when thousands of streams have come and gone."""

    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, channel(here.port) as connection:
            proxy = Proxy(call(connection), "web-0.shop")
            await proxy.ask(CDS)
            await proxy.call.read()
            first = ref(next(iter(here.server._sessions)))
            await end(proxy, connection)
            async with asyncio.timeout(10):
                while first() is not None:  # noqa: ASYNC110  that nothing holds it is what is waited for
                    await asyncio.sleep(0.005)

    gc.collect()
    gc.disable()
    try:
        run(story)
    finally:
        gc.enable()


@pytest.mark.parametrize("data", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))])
def test_garbage_ends_the_stream_that_it_came_by_and_no_other(data: bytes) -> None:
    async def story() -> None:
        async with running(world("a=1")) as here, connected(here.port) as good, channel(here.port) as bad:
            await good.ask(CDS)
            await good.until(CDS, {"a": "1"})
            stream = call(bad)
            await stream.write(data)
            assert await refusal(stream) is grpc.StatusCode.INVALID_ARGUMENT
            assert here.counted("stream_ends_total", reason="malformed") == 1
            here.adopt(world("a=2"))
            await good.until(CDS, {"a": "2"})

    run(story)


def test_a_stream_that_ends_while_it_is_told_something_ends_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC takes no status meanwhile, and the stream kept its place until its connection ended, seen."""
    monkeypatch.setattr(session, "LAST_SECONDS", 10.0)

    async def story() -> None:
        async with running(World({EDS: {"large": "x" * 1_000_000}})) as here, channel(here.port) as bad:
            proxy = Proxy(call(bad), "web-0.shop")
            await proxy.ask(EDS, "large")
            await proxy.call.write(b"\xff")
            assert await refusal(proxy.call) is grpc.StatusCode.INVALID_ARGUMENT

    run(story)


def test_a_million_names_end_the_stream() -> None:
    async def story() -> None:
        async with running(world()) as here, channel(here.port) as bad:
            proxy = Proxy(call(bad), "web-0.shop")
            await proxy.ask(EDS, *(f"n{number}" for number in range(MAX_NAMES + 1)))
            assert await refusal(proxy.call) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert here.counted("stream_ends_total", reason="too_many_names") == 1

    run(story)


def test_a_request_that_is_too_large_ends_the_stream() -> None:
    async def story() -> None:
        async with running(world(), Limits(request_bytes=10_000)) as here, channel(here.port) as bad:
            stream = call(bad)
            await stream.write(b"\x0a" * 20_000)
            assert await refusal(stream) is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(story)


def test_of_too_many_streams_of_one_pod_the_oldest_gives_way() -> None:
    async def story() -> None:
        async with running(world("a=1")) as here, channel(here.port) as connection:
            proxies = [Proxy(call(connection), "web-0.shop") for _ in range(STREAMS_PER_POD + 1)]
            for proxy in proxies:
                await proxy.ask(CDS)
                await proxy.call.read()
            assert await refusal(proxies[0].call) is grpc.StatusCode.CANCELLED
            assert here.counted("streams") == STREAMS_PER_POD

    run(story)


def test_more_streams_than_a_replica_takes_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(world("a=1"), Limits(streams=1)) as here, connected(here.port) as proxy:
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})
            async with channel(here.port) as other:
                assert await refusal(call(other)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert here.counted("refusals_total", reason="full") == 1

    run(story)
    assert notices(caplog) == ["refused"]


def test_a_place_is_free_again_when_its_stream_has_ended() -> None:
    async def story() -> None:
        async with running(world("a=1"), Limits(streams=1)) as here:
            for _ in range(3):
                async with connected(here.port) as proxy:
                    await proxy.ask(CDS)
                    await proxy.until(CDS, {"a": "1"})
                await here.until("streams", 0)

    run(story)


def test_a_flood_of_requests_slows_down_who_sends_it_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "BURST", 20.0)

    async def story() -> None:
        async with (
            running(world("a=1", "a=1")) as here,
            connected(here.port, "web-0.shop") as flood,
            connected(here.port, "web-1.shop") as good,
        ):
            for _ in range(200):
                await flood.ask(EDS, "a")
            await good.ask(CDS)
            await good.until(CDS, {"a": "1"})
            assert here.counted("requests_total", type="endpoints") < 60
            assert here.counted("waits_total") > 0

    run(story)
    assert notices(caplog) == ["slowed"]


def test_a_proxy_that_never_answers_gets_one_response_of_each_type() -> None:
    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, connected(here.port, mute=True) as proxy:
            await proxy.ask(EDS, "a")
            await proxy.until(EDS, {"a": "1"})
            for version in range(2, 200):
                here.adopt(world("a=1", f"a={version}"))
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})
            assert len(proxy.responses) == 2

    run(story)


def test_answers_that_do_not_come_are_counted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.05)

    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, connected(here.port, mute=True) as proxy:
            await proxy.ask(EDS, "a")
            for version in ("1", "2", "3"):
                here.adopt(world("a=1", f"a={version}"))
                await proxy.until(EDS, {"a": version})
            assert here.counted("unanswered_total", type="endpoints") == 2

    run(story)
    assert notices(caplog) == ["unanswered"]


def test_a_push_is_measured_from_the_change_that_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from one that was taken back before the proxy could be told: hours may lie between."""
    later = 0.0
    for module in (session, server):
        monkeypatch.setattr(module, "monotonic", lambda: monotonic() + later)

    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, connected(here.port, mute=True) as proxy:
            await proxy.ask(EDS, "a")
            await proxy.until(EDS, {"a": "1"})
            here.adopt(world("a=1", "a=2"))
            here.adopt(world("a=1", "a=1"))
            await proxy.ask(EDS, response_nonce=proxy.responses[-1].nonce)
            await here.until("accept_seconds_count", 1, type="endpoints")
            nonlocal later
            later = 3600.0
            here.adopt(world("a=1", "a=3"))
            await proxy.until(EDS, {"a": "3"})
            await here.until("push_seconds_count", 1)
            assert here.counted("push_seconds_sum") < 60

    run(story)


def test_what_thousands_of_callers_meet_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(world()) as here, channel(here.port) as bad:
            for _ in range(20):
                stream = call(bad)
                await stream.write(b"\xff")
                assert await refusal(stream) is grpc.StatusCode.INVALID_ARGUMENT
            assert here.counted("stream_ends_total", reason="malformed") == 20

    run(story)
    assert [record.getMessage() for record in caplog.records if record.name == "controlplane"] == ["ended"]


def test_hundreds_of_streams_of_one_pod_take_the_place_of_three() -> None:
    async def story() -> None:
        async with running(world("a=1", "a=1")) as here, connected(here.port, "web-1.shop") as good:
            await good.ask(CDS)
            await good.until(CDS, {"a": "1"})
            async with AsyncExitStack() as stack:
                for _ in range(300):
                    proxy = await stack.enter_async_context(connected(here.port, "web-0.shop"))
                    await proxy.ask(EDS, "a")
                await here.until("stream_ends_total", 300 - STREAMS_PER_POD, reason="replaced")
                assert here.counted("streams") == 1 + STREAMS_PER_POD
                here.adopt(world("a=2", "a=2"))
                await good.until(CDS, {"a": "2"})

    run(story)


def test_another_type_of_stream_is_unknown() -> None:
    async def story() -> None:
        async with running(world()) as here, channel(here.port) as connection:
            stream = connection.stream_stream(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            )()
            assert await refusal(stream) is grpc.StatusCode.UNIMPLEMENTED

    run(story)


def test_a_replica_that_stops_tells_its_proxies() -> None:
    async def story() -> None:
        async with running(world("a=1")) as here, channel(here.port) as connection:
            proxy = Proxy(call(connection), "web-0.shop")
            await proxy.ask(CDS)
            await proxy.call.read()
            stopping = asyncio.create_task(here.server.stop(0.1))
            assert await refusal(proxy.call) is grpc.StatusCode.UNAVAILABLE
            await stopping

    run(story)


def test_a_caller_that_turns_out_to_be_another_is_told_what_concerns_it() -> None:
    class Zoned(World):
        def names(self, kind: Kind, caller: Caller) -> tuple[str, ...]:
            return (f"a@{caller.zone}",) if caller.zone and kind is CDS else ()

    async def story() -> None:
        snapshot = Zoned({CDS: {"a@west": "1"}})
        async with running(snapshot) as here, connected(here.port) as proxy:
            await proxy.ask(CDS)
            await here.until("responses_total", 1, type="cluster")
            here.server.adopt(snapshot, lambda identity: Caller(identity.namespace, identity.pod, zone="west"))
            await proxy.until(CDS, {"a@west": "1"})

    run(story)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "control.plane:0"])
def test_nothing_is_served_in_the_clear_beyond_loopback(address: str) -> None:
    async def story() -> None:
        with pytest.raises(ValueError, match="beyond loopback"):
            await Running().server.bind(address, None)

    run(story)


def test_a_port_that_is_taken_is_an_error() -> None:
    async def story() -> None:
        async with running(world()) as here:
            with pytest.raises(OSError, match=str(here.port)):
                await Running().server.bind(f"127.0.0.1:{here.port}", None)

    run(story)


def test_who_is_connected_and_what_it_has_can_be_looked_at() -> None:
    async def story() -> None:
        async with running(world("a=1")) as here, connected(here.port) as proxy:
            await proxy.ask(CDS)
            await proxy.until(CDS, {"a": "1"})
            await here.until("accept_seconds_count", 1, type="cluster")
            (found,) = here.server.debug()["proxies"]
            assert (found["pod"], found["types"]["cluster"]["names"]) == ("shop/web-0", 1)
            (held,) = here.server.debug_proxy("shop", "web-0")
            assert held["holds"] == {"cluster": {"a": "1"}}

    run(story)


class Busy:
    """A subscriber that takes its time, as one of thousands in a namespace of thousands of Services may."""

    woken = 0

    def notice(self, kind: Kind, name: str) -> None:
        pass

    def wake(self) -> None:
        self.woken += 1
        until = thread_time() + 0.001
        while thread_time() < until:
            pass


def test_the_loop_turns_while_thousands_are_told() -> None:
    async def story() -> None:
        crowd = [Busy() for _ in range(300)]
        async with running(world("a=1")) as here, connected(here.port) as proxy:
            for busy in crowd:
                here.server.cache.subscribe(busy, CDS, "a")
            with turning() as turns:
                here.adopt(world("a=2"))
                await proxy.ask(CDS)
                await proxy.until(CDS, {"a": "2"})
                while not all(busy.woken for busy in crowd):  # noqa: ASYNC110  what is waited for are the turns themselves
                    await asyncio.sleep(0)
            assert turns.longest < turns.all / 3, turns
            assert {busy.woken for busy in crowd} == {1}

    run(story)


def test_who_waits_to_be_told_already_is_told_once() -> None:
    async def story() -> None:
        busy = Busy()
        async with running(world("a=1")) as here:
            here.server.cache.subscribe(busy, CDS, "a")
            here.adopt(world("a=2"))
            here.adopt(world("a=3"))
            async with connected(here.port) as proxy:
                await proxy.ask(CDS)
                await proxy.until(CDS, {"a": "3"})
            assert busy.woken == 1

    run(story)


def test_the_loop_turns_while_a_proxy_of_thousands_of_services_comes_and_while_they_change() -> None:
    there = cluster.world(*(cluster.service(f"s{number}") for number in range(1000)))
    choices = Choices(scope=Scope(default="cluster"))
    for _ in Translated(cluster.mesh(cluster.service()), choices).prepare(cluster.WEB):
        pass  # what every process learns once: Envoy's rules

    async def story() -> None:
        async with running(Translated(there.mesh(), choices)) as here, connected(here.port) as proxy:
            with turning() as coming:
                await proxy.ask(CDS)
                await proxy.told(CDS, 1000)
                await proxy.ask(RDS, "http_80")
                await proxy.told(RDS, 1)
            for number in range(1000):
                there.put("Service", cluster.service(f"s{number}", annotations={"timeout": f"{number + 1}s"}))
            former = here.server.cache.snapshot
            assert isinstance(former, Translated)
            with turning() as changing:
                latter = former.next(there.mesh())
                await here.server.follow(latter)
                here.adopt(latter)
            for turns in (coming, changing):
                assert turns.longest < turns.all / 3, turns

    run(story)
