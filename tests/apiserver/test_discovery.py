"""The whole path: an object is written to a real API server, and a proxy that shows its pod's token is told."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from time import monotonic

import grpc
import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from controlplane.process import STOP_SECONDS
from controlplane.xds.door import STREAMS_PER_POD
from controlplane.xds.snapshot import Kind
from tests import cluster as build
from tests.apiserver import control_plane
from tests.apiserver.account import SYSTEM, sign_in
from tests.apiserver.admissions import MEASURED
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.discovery import ControlPlane, run_pod, serving, token_of
from tests.apiserver.installation import Installation
from tests.apiserver.objects import namespace, service_account
from tests.apiserver.writer import Writer
from tests.proxies import Proxy, call, channel, connected, refusal

CDS, EDS, LDS, RDS = Kind
SERVICES = 20
STORM = 100  # rounds of a change of every Service
STORM_SECONDS = 10.0  # that they take at most
SECONDS = 60.0


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 180))


def services(where: str, numbers: range) -> list[Object]:
    return [build.service(f"s{n}", where, clusterIP=None) for n in numbers]


def slices(where: str, numbers: range, network: int = 1) -> list[Object]:
    return [build.slice_of(f"s{n}", [f"10.{network}.{n // 250}.{n % 250 + 1}"], where) for n in numbers]


def stored(cluster: Cluster, where: str) -> dict[str, list[str]]:
    """The addresses of the endpoints of each Service's cluster, as the API server has them."""
    names = [it["metadata"]["name"] for it in cluster.get("services", "-n", where)["items"]]
    found: dict[str, list[str]] = {f"{where}/{name}:80": [] for name in names}
    for one in cluster.get("endpointslices", "-n", where)["items"]:
        name = f"{where}/{one['metadata']['labels']['kubernetes.io/service-name']}:80"
        if name in found:
            found[name] = [address for endpoint in one["endpoints"] for address in endpoint["addresses"]]
    return found


def told(proxy: Proxy) -> dict[str, list[str]]:
    """The same, as a proxy knows them."""
    addresses: dict[str, list[str]] = {}
    for response in proxy.responses:
        for resource in response.resources if response.type_url == EDS else ():
            assignment = ClusterLoadAssignment()
            resource.resource.Unpack(assignment)
            endpoints = [it.endpoint for group in assignment.endpoints for it in group.lb_endpoints]
            addresses[resource.name] = [it.address.socket_address.address for it in endpoints]
    return {name: addresses.get(name, []) for name in proxy.holds[CDS] if "/" in name}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110  what is waited for is told by nobody
            await asyncio.sleep(0.02)


async def knows(proxy: Proxy, cluster: Cluster, where: str) -> None:
    """Waits until the proxy is told what the API server has; asks for the endpoints of each cluster, as Envoy does."""
    async with asyncio.timeout(SECONDS):
        while told(proxy) != (has := await asyncio.to_thread(stored, cluster, where)):
            new = has.keys() & proxy.holds[CDS].keys() - proxy.holds[EDS].keys()
            if new:
                await proxy.ask(EDS, *sorted(new))
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def plane(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With the rights that our manifests give it."""
    account = sign_in(installation.cluster, "envoy-sidecar-controlplane")
    with serving(account.kubeconfig, tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def place(kubernetes: Cluster, new_namespace: Callable[..., str]) -> str:
    """A namespace with Services, and a pod web-1."""
    where = new_namespace({})
    Writer.of(kubernetes).create([*services(where, range(SERVICES)), *slices(where, range(SERVICES))])
    run_pod(kubernetes, where)
    return where


def test_a_proxy_is_told_of_the_services_of_its_namespace_as_the_api_server_has_them(
    kubernetes: Cluster, plane: ControlPlane, place: str, new_namespace: Callable[..., str]
) -> None:
    token, writer, other = token_of(kubernetes, place, "web-1"), Writer.of(kubernetes), new_namespace({})
    writer.create(services(other, range(1)))

    async def story() -> None:
        async with connected(plane.port, f"web-1.{place}", plane.ca, token) as proxy:
            await proxy.ask(CDS)
            await knows(proxy, kubernetes, place)
            assert len(told(proxy)) == SERVICES
            await asyncio.to_thread(writer.patch, slices(place, range(5), network=2))
            await asyncio.to_thread(writer.delete, [*services(place, range(5, 8)), *slices(place, range(8, 10))])
            await asyncio.to_thread(writer.create, services(place, range(SERVICES, SERVICES + 2)))
            await knows(proxy, kubernetes, place)
            assert len(told(proxy)) == SERVICES - 3 + 2

    run(story())


@pytest.mark.alone
def test_a_storm_of_changes_ends_with_what_the_api_server_has_and_nothing_is_told_twice(
    kubernetes: Cluster, plane: ControlPlane, place: str, record_property: Callable[[str, object], None]
) -> None:
    token, writer, before = token_of(kubernetes, place, "web-1"), Writer.of(kubernetes), plane.memory()

    def storm() -> float:
        begun = monotonic()
        writer.put(chain.from_iterable(slices(place, range(SERVICES), network=number + 2) for number in range(STORM)))
        return monotonic() - begun

    async def story() -> None:
        async with connected(plane.port, f"web-1.{place}", plane.ca, token) as proxy:
            await proxy.ask(CDS)
            await knows(proxy, kubernetes, place)
            first = len(proxy.responses)
            seconds = await asyncio.to_thread(storm)
            await knows(proxy, kubernetes, place)
            pushes = [it for it in proxy.responses[first:] if it.type_url == EDS]
            line = f"{STORM * SERVICES} endpoint changes in {seconds:.1f} s: {len(pushes)} pushes to a proxy"
            record_property(MEASURED, f"{line}, the control plane's memory {plane.peak() - before:+.1f} MiB at most")
            assert seconds <= STORM_SECONDS
            versions = [(it.name, it.version) for push in pushes for it in push.resources]
            assert len(versions) == len(set(versions)) <= STORM * SERVICES

    run(story())
    assert not plane.peak() - before > 32


def test_a_replica_that_stops_hands_its_proxies_over_bit_by_bit_and_another_tells_them_nothing_new(
    installation: Installation, plane: ControlPlane, place: str, tmp_path: Path
) -> None:
    cluster = installation.cluster
    kubeconfig = sign_in(cluster, "envoy-sidecar-controlplane").kubeconfig

    async def story(leaving: ControlPlane, token: str) -> None:
        async with AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(connected(leaving.port, f"web-1.{place}", leaving.ca, token))
                for _ in range(STREAMS_PER_POD)
            ]
            for proxy in proxies:
                await proxy.ask(CDS)
                await knows(proxy, cluster, place)
            leaving.process.terminate()
            begun = monotonic()
            ends = [(await proxy.call.code(), monotonic() - begun) for proxy in proxies]
            assert {code for code, _ in ends} == {grpc.StatusCode.UNAVAILABLE}
            assert ends[-1][1] - ends[0][1] > STOP_SECONDS / 2
            assert await asyncio.to_thread(leaving.process.wait, STOP_SECONDS) == 0
        async with connected(plane.port, f"web-1.{place}", plane.ca, token) as moved:
            for kind in (CDS, EDS):
                held = proxies[0].holds[kind]
                await moved.ask(kind, *(held if kind == EDS else ()), initial_resource_versions=held)
            await moved.ask(EDS, "nobody/knows:80")  # which is answered, after all that there is to say
            await until(lambda: bool(moved.responses))
            assert [it.name for push in moved.responses for it in push.resources] == []

    with serving(kubeconfig, tmp_path / "leaving") as leaving:
        run(story(leaving, token_of(cluster, place, "web-1")))


def test_an_api_server_that_is_away_changes_nothing_but_that_nobody_unknown_is_let_in(tmp_path: Path) -> None:
    with control_plane.etcd(tmp_path) as store:
        run(_while_it_is_away(control_plane.described(tmp_path), store))


async def _while_it_is_away(cluster: Cluster, store: str) -> None:
    async with AsyncExitStack() as stack:
        with control_plane.serving(cluster, store):
            cluster.kubectl("create", "-f", "-", stdin=[namespace(SYSTEM), namespace("shop"), service_account("shop")])
            writer = Writer.of(cluster)
            writer.create([*services("shop", range(SERVICES)), *slices("shop", range(SERVICES))])
            for name in ("web-1", "web-2"):
                run_pod(cluster, "shop", name)
            known, unknown = (token_of(cluster, "shop", name) for name in ("web-1", "web-2"))
            plane = stack.enter_context(serving(cluster.kubeconfig, cluster.directory / "plane"))
            first = await stack.enter_async_context(connected(plane.port, "web-1.shop", plane.ca, known))
            await first.ask(CDS)
            await knows(first, cluster, "shop")
            has = told(first)
        await until(lambda: plane.counted("watch_failures_total", kind="service", reason="unreachable") > 0)
        async with connected(plane.port, "web-1.shop", plane.ca, known) as again:
            await again.ask(CDS)
            await again.ask(EDS, *has)
            await until(lambda: told(again) == has)
        async with channel(plane.port, plane.ca) as connection:
            assert await refusal(call(connection, unknown)) == grpc.StatusCode.UNAVAILABLE
        assert plane.counted("refusals_total", reason="unavailable") == 1
        assert (told(first), plane.counted("streams")) == (has, 1)
        with control_plane.serving(cluster, store):
            writer.patch(slices("shop", range(5), network=2))
            await knows(first, cluster, "shop")
            async with connected(plane.port, "web-2.shop", plane.ca, unknown) as second:
                await second.ask(CDS)
                await knows(second, cluster, "shop")
