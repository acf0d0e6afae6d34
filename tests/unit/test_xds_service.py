"""Discovery as it is served across the network: by TLS, for tokens, from a world on; and what may fail meanwhile."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from controlplane.xds.credentials import CredentialsError
from controlplane.xds.identity import Identity
from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.service import Discovery, Make, Place
from controlplane.xds.snapshot import Caller, Kind
from tests import mounted
from tests.apiserver.processes import eventually
from tests.proxies import Proxy, call, channel, connected, refusal
from tests.tokens import reviewed, token
from tests.worlds import World, world

CDS = Kind.CLUSTER


def review(shown: str, audience: str) -> Mapping[str, Any]:
    """The API server, if it knew one pod."""
    return reviewed() if shown == token() else {"authenticated": False}


def callers(identity: Identity) -> Caller:
    return Caller(identity.namespace, identity.pod)


def of(snapshot: World) -> Make:
    return lambda _former: (snapshot, callers)


class Running:
    """One, with a mounted certificate of its own."""

    def __init__(self, directory: Path) -> None:
        self.tls = directory / "tls"
        mounted.renew(self.tls)
        self.registry = CollectorRegistry()
        place = Place(address="127.0.0.1:0", tls=self.tls, review=review)
        self.discovery = Discovery(place, Metrics(self.registry))
        self.discovery.start()

    @property
    def ca(self) -> bytes:
        return (self.tls / "ca.crt").read_bytes()

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0

    def status(self, shown: str | None, node: str = "") -> Any:
        """What becomes of a stream that shows that token, and of who then says that it is that node."""

        async def story() -> Any:
            async with channel(self.discovery.port, self.ca) as connection:
                stream = call(connection, shown)
                if node:
                    await Proxy(stream, node).ask(CDS)
                return await refusal(stream)

        return _run(story())

    def hears(self, ca: bytes | None = None, holds: Mapping[str, str] | None = None) -> None:
        """A proxy with a good token learns of these clusters."""

        async def story() -> None:
            async with connected(self.discovery.port, ca=ca or self.ca, token=token()) as proxy:
                await proxy.ask(CDS)
                await proxy.until(CDS, dict(holds or {"a": "1"}))

        _run(story())


def _run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, 30))


@contextmanager
def running(directory: Path, snapshot: World | None = None) -> Iterator[Running]:
    here = Running(directory)
    try:
        if snapshot is not None:
            here.discovery.publish(of(snapshot))
            eventually(lambda: here.discovery.ready, "proxies are served")
        yield here
    finally:
        here.discovery.stop(0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, world("a=1")) as found:
        yield found


def test_a_proxy_with_a_good_token_is_served_by_tls(here: Running) -> None:
    here.hears()
    assert here.discovery.healthy


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (None, "no_token"),
        ("no token", "malformed"),
        (token(expires=1), "expired"),
        (token(audience="https://kubernetes.default.svc"), "audience"),
        (token("shop/web-1"), "invalid"),
    ],
)
def test_a_proxy_without_is_refused_and_counted(here: Running, shown: str | None, reason: str) -> None:
    assert here.status(shown) is grpc.StatusCode.UNAUTHENTICATED
    assert here.counted("refusals_total", reason=reason) == 1
    assert here.counted("streams") == 0


def test_a_proxy_that_says_that_it_is_another_pod_is_refused(here: Running) -> None:
    assert here.status(token(), "web-1.shop") is grpc.StatusCode.PERMISSION_DENIED
    assert here.counted("refusals_total", reason="other_pod") == 1


def test_a_client_without_tls_is_not_served(here: Running) -> None:
    async def story() -> None:
        async with channel(here.discovery.port) as connection:
            assert await refusal(call(connection, token())) is grpc.StatusCode.UNAVAILABLE

    _run(story())


def test_a_client_that_trusts_another_ca_does_not_show_its_token(here: Running, tmp_path: Path) -> None:
    mounted.renew(tmp_path / "other")

    async def story() -> None:
        async with channel(here.discovery.port, (tmp_path / "other/ca.crt").read_bytes()) as connection:
            assert await refusal(call(connection, token())) is grpc.StatusCode.UNAVAILABLE

    _run(story())
    assert here.counted("requests_total", type="cluster") == 0


def test_a_renewed_certificate_is_served_from_the_next_handshake_on(here: Running) -> None:
    former = here.ca
    here.hears(former)
    mounted.renew(here.tls)
    assert here.ca != former
    here.hears()
    assert here.counted("certificate_last_reload_successful") == 1


def test_what_cannot_be_served_is_told_and_the_former_certificate_stays(here: Running) -> None:
    former = here.ca
    mounted.write(here.tls, {"tls.crt": b"torn", "tls.key": b"torn", "ca.crt": b"torn"})
    here.hears(former)
    assert here.counted("certificate_last_reload_successful") == 0
    mounted.renew(here.tls)
    here.hears()
    assert here.counted("certificate_last_reload_successful") == 1


@pytest.mark.parametrize("files", [{}, {"tls.crt": b"", "tls.key": b""}, {"tls.crt": b"x"}])
def test_without_a_certificate_it_does_not_start(tmp_path: Path, files: Mapping[str, bytes]) -> None:
    mounted.write(tmp_path / "tls", files)
    place = Place(address="127.0.0.1:0", tls=tmp_path / "tls", review=review)
    with pytest.raises(CredentialsError, match="cannot be served"):
        Discovery(place, Metrics(CollectorRegistry())).start()


def test_before_the_first_world_nobody_is_served(tmp_path: Path) -> None:
    with running(tmp_path) as here:
        assert not here.discovery.ready

        async def story() -> None:
            async with connected(here.discovery.port, ca=here.ca, token=token()) as proxy:
                asking = asyncio.create_task(proxy.ask(CDS))
                with pytest.raises(TimeoutError):
                    await proxy.until(CDS, {"a": "1"}, 0.3)
                here.discovery.publish(of(world("a=1")))
                await proxy.until(CDS, {"a": "1"})
                await asking

        _run(story())


def test_a_world_that_cannot_be_taken_over_leaves_the_last_good_one(here: Running) -> None:
    def broken(_former: object) -> Any:
        raise KeyError("nobody foresaw this")

    here.discovery.publish(broken)
    eventually(lambda: here.counted("snapshot_failures_total") == 1, "the failure is counted")
    here.hears()


def test_of_many_worlds_the_last_is_told(here: Running) -> None:
    for version in range(2, 500):
        here.discovery.publish(of(world(f"a={version}")))
    here.hears(holds={"a": "499"})


def test_a_world_that_cannot_be_made_is_told_by_its_place_in_the_code(
    here: Running, caplog: pytest.LogCaptureFixture
) -> None:
    here.discovery.publish(lambda _former: 1 // 0)  # type: ignore[arg-type,return-value]
    eventually(lambda: "world not taken over" in caplog.text, "the failure is told")
    assert "ZeroDivisionError" in caplog.text


def test_what_proxies_have_can_be_looked_at(here: Running) -> None:
    assert here.discovery.debug("/debug/proxies") is not None
    assert here.discovery.debug("/debug/proxies/shop/web-0") == "[]"
    assert here.discovery.debug("/debug/elsewhere") is None


def test_a_port_that_is_taken_is_told_at_the_start(here: Running) -> None:
    place = Place(address=f"127.0.0.1:{here.discovery.port}", tls=here.tls, review=review)
    with pytest.raises(OSError, match=str(here.discovery.port)):
        Discovery(place, Metrics(CollectorRegistry())).start()


def test_what_is_larger_than_a_record_of_tls_arrives_both_ways(here: Running) -> None:
    names = {f"{number:03}-{'n' * 200}": "v" * 200 for number in range(400)}
    here.discovery.publish(of(World({Kind.ENDPOINTS: names})))

    async def story() -> None:
        async with connected(here.discovery.port, ca=here.ca, token=token()) as proxy:
            await proxy.ask(Kind.ENDPOINTS, *names)
            await proxy.until(Kind.ENDPOINTS, names)

    _run(story())
