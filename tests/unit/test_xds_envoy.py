"""A real Envoy and the real server on loopback, by TLS and with a token: what it is told is what it does."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.service import Discovery, Place
from controlplane.xds.snapshot import Kind, Snapshot
from controlplane.xds.transport import Limits
from tests import mounted
from tests.apiserver.admissions import MEASURED
from tests.apiserver.processes import eventually, free_port
from tests.bench.measure import least, percentile
from tests.envoys import Told, asking, backend, callers, cluster, endpoints, listener, routes, sidecar, told
from tests.tokens import reviewed, token

pytestmark = pytest.mark.envoy

CDS, EDS, LDS, RDS = Kind
Record = Callable[[str, object], None]


class Plane:
    """A control plane that lets two tokens of one pod in, as one that is renewed has."""

    def __init__(self, tls: Path, port: int = 0, limits: Limits | None = None) -> None:
        self.registry = CollectorRegistry()
        self.shown: list[str] = []
        place = Place(address=f"127.0.0.1:{port}", tls=tls, review=self._review, limits=limits or Limits())
        self.discovery = Discovery(place, Metrics(self.registry))
        self.discovery.start()
        self.port = self.discovery.port

    def tell(self, snapshot: Snapshot) -> None:
        self.discovery.publish(lambda _former: (snapshot, callers))

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0

    def _review(self, shown: str, audience: str) -> Mapping[str, Any]:
        self.shown.append(shown)
        return reviewed()


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    mounted.renew(tmp_path / "tls")
    return tmp_path / "tls"


@pytest.fixture
def plane(tls: Path) -> Iterator[Plane]:
    found = Plane(tls)
    yield found
    found.discovery.stop(0)


@pytest.fixture
def restless(tls: Path) -> Iterator[Plane]:
    """One whose connections do not get old."""
    found = Plane(tls, limits=Limits(connection_age=1))
    yield found
    found.discovery.stop(0)


def authority(tls: Path) -> bytes:
    return (tls / "ca.crt").read_bytes()


def test_envoy_is_told_where_to_send_requests_and_follows_changes(plane: Plane, tls: Path) -> None:
    with backend("one") as one, backend("two") as two, sidecar(plane.port, authority(tls)) as envoy:
        plane.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        plane.tell(told(envoy.port, a=[two]))
        eventually(lambda: _answers(envoy) == "two", "requests reach the other endpoint")
        assert plane.counted("nacks_total", type="cluster") == 0
        assert "deprecated" not in envoy.log.lower()


@pytest.mark.alone
def test_a_change_of_endpoints_is_in_use_within_20_milliseconds(
    plane: Plane, tls: Path, record_property: Record
) -> None:
    with backend("one") as one, backend("two") as two, sidecar(plane.port, authority(tls)) as envoy:
        plane.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")

        def median() -> float:
            times = []
            for number in range(20):
                name, port = (("two", two), ("one", one))[number % 2]
                start = monotonic()
                plane.tell(told(envoy.port, a=[port]))
                while envoy.ask() != name:
                    assert monotonic() < start + 5
                times.append(monotonic() - start)
            return percentile(times, 50)

        found = least(median, 0.020)
    record_property(MEASURED, f"a change of endpoints, from the control plane to a request: p50 {1000 * found:.1f} ms")
    assert found <= 0.020


def test_no_request_fails_while_a_route_moves_to_a_new_cluster_and_the_old_one_goes(plane: Plane, tls: Path) -> None:
    with backend("one") as one, backend("two") as two, sidecar(plane.port, authority(tls)) as envoy:
        plane.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        with asking(envoy) as answers:
            for number in range(10):
                name, port = (("two", two), ("one", one))[number % 2]
                plane.tell(told(envoy.port, **{f"cluster{number}": [port]}))
                eventually(lambda name=name: answers[-1:] == [name], "requests go to the new cluster")  # type: ignore[misc]
            eventually(lambda: "cluster0" not in envoy.admin("/clusters"), "the old cluster is gone")
        assert set(answers) == {"one", "two"}


def test_a_changed_cluster_gets_its_endpoints_again_and_no_request_fails(plane: Plane, tls: Path) -> None:
    def changed(seconds: int) -> Told:
        return Told({**world.sources, CDS: {"a": cluster("a", connect_timeout=f"{seconds}s")}})

    with backend("one") as one, sidecar(plane.port, authority(tls)) as envoy:
        world = told(envoy.port, a=[one])
        plane.tell(world)
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        with asking(envoy) as answers:
            for seconds in range(2, 6):
                plane.tell(changed(seconds))
                taken = 1 + seconds - 1
                eventually(
                    lambda taken=taken: plane.counted("accept_seconds_count", type="cluster") == taken,  # type: ignore[misc]
                    "the cluster is warm; without its endpoints that would take a minute",
                )
        assert set(answers) == {"one"}


def test_what_envoy_rejects_takes_nothing_else_with_it(plane: Plane, tls: Path) -> None:
    bad = cluster("bad", lb_policy="CLUSTER_PROVIDED")  # valid by the rules of the message, and refused all the same
    with backend("one") as one, sidecar(plane.port, authority(tls)) as envoy:
        world = told(envoy.port, **{f"c{number}": [one] for number in range(6)})
        plane.tell(Told({**world.sources, CDS: {**world.sources[CDS], "bad": bad}}))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        eventually(lambda: plane.counted("rejected_resources", type="cluster") == 1, "the bad one is known")
        assert {f"c{number}" for number in range(6)} <= _clusters(envoy)
        assert plane.counted("nacks_total", type="cluster") <= 4
        assert envoy.counted("control_plane.connected_state") == 1
        good = {**world.sources[CDS], "bad": cluster("bad")}
        plane.tell(Told({**world.sources, CDS: good, EDS: {**world.sources[EDS], "bad": endpoints("bad", one)}}))
        eventually(lambda: "bad" in _clusters(envoy), "it is taken when it has become good")
        eventually(lambda: plane.counted("rejected_resources", type="cluster") == 0, "and no longer counted")


def test_a_control_plane_that_ends_and_comes_back_is_noticed_by_nobody(plane: Plane, tls: Path) -> None:
    with backend("one") as one, sidecar(plane.port, authority(tls)) as envoy:
        world = told(envoy.port, a=[one])
        plane.tell(world)
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        with asking(envoy) as answers:
            plane.discovery.stop(0)
            eventually(lambda: not envoy.counted("control_plane.connected_state"), "Envoy is alone")
            other = Plane(tls, plane.port)
            try:
                other.tell(world)
                eventually(lambda: envoy.counted("control_plane.connected_state"), "Envoy has found the new one")
                eventually(lambda: other.counted("accept_seconds_count", type="listener") == 1, "and asked it")
                assert other.counted("sent_bytes_total", type="cluster") < 100
                assert other.counted("responses_total", type="endpoints") == 0
                assert other.counted("responses_total", type="routes") == 0
            finally:
                other.discovery.stop(0)
        assert set(answers) == {"one"}


def test_a_control_plane_with_an_empty_world_takes_away_what_it_does_not_know_and_envoy_lives(
    plane: Plane, tls: Path
) -> None:
    with backend("one") as one, sidecar(plane.port, authority(tls)) as envoy:
        plane.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        plane.tell(Told({}))
        eventually(lambda: _clusters(envoy) == {"controlplane"}, "the cluster is gone")
        plane.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "and comes back")


def test_an_unknown_cluster_of_a_route_and_unknown_routes_hold_nobody_up(plane: Plane, tls: Path) -> None:
    with backend("one") as one, sidecar(plane.port, authority(tls)) as envoy:
        start = monotonic()
        plane.tell(
            Told(
                {
                    CDS: {"a": cluster("a"), "empty": cluster("empty")},  # whose endpoints nobody knows
                    EDS: {"a": endpoints("a", one)},
                    LDS: {"in": listener(envoy.port)},
                    RDS: {"http": routes("a")},
                }
            )
        )
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        assert monotonic() - start < 10  # and not the minute that the endpoints of `empty` may take


def test_a_stream_that_is_old_enough_moves_and_nothing_is_sent_again(restless: Plane, tls: Path) -> None:
    with backend("one") as one, sidecar(restless.port, authority(tls)) as envoy:
        restless.tell(told(envoy.port, a=[one]))
        eventually(lambda: _answers(envoy) == "one", "requests reach the endpoint")
        with asking(envoy) as answers:
            eventually(lambda: restless.counted("stream_ends_total", reason="closed") >= 3, "it has moved")
        assert set(answers) == {"one"}
        assert restless.counted("responses_total", type="endpoints") == 1


def test_a_renewed_token_is_shown_by_the_next_stream(restless: Plane, tls: Path) -> None:
    renewed = token(iat=2)
    restless.tell(Told({}))
    with sidecar(restless.port, authority(tls)) as envoy:
        eventually(lambda: restless.shown == [token()], "the token is shown")
        mounted.write(envoy.folder / "token", {"token": renewed.encode()})
        eventually(lambda: restless.shown[-1] == renewed, "the renewed token is shown")


def test_a_renewed_ca_is_trusted_without_a_restart(restless: Plane, tls: Path) -> None:
    former = authority(tls)
    restless.tell(Told({}))
    with sidecar(restless.port, former) as envoy:
        eventually(lambda: envoy.counted("cluster.controlplane.ssl.handshake") > 0, "Envoy is connected")
        mounted.renew(tls)
        mounted.write(envoy.folder / "trust", {"ca.crt": former + authority(tls)})  # both, as certs publishes them
        _reconnects(envoy)
        mounted.write(envoy.folder / "trust", {"ca.crt": authority(tls)})
        _reconnects(envoy)


def test_a_ca_that_is_not_there_yet_is_trusted_as_soon_as_it_is(plane: Plane, tls: Path) -> None:
    plane.tell(Told({}))
    with sidecar(plane.port, None) as envoy:
        eventually(lambda: envoy.admin("/ready").strip() == "LIVE", "Envoy is ready without")
        assert plane.shown == []
        mounted.write(envoy.folder / "trust", {"ca.crt": authority(tls)})
        eventually(lambda: plane.shown, "the token is shown")


def test_a_certificate_of_a_ca_that_is_not_trusted_gets_no_token(plane: Plane, tls: Path, tmp_path: Path) -> None:
    mounted.renew(tmp_path / "other")
    plane.tell(Told({}))
    with sidecar(plane.port, authority(tmp_path / "other")) as envoy:
        eventually(lambda: envoy.counted("cluster.controlplane.ssl.fail_verify_error") > 0, "Envoy refuses")
        assert plane.shown == []


def test_a_proxy_that_is_refused_goes_on_with_what_it_has(plane: Plane, tls: Path) -> None:
    plane.tell(Told({}))
    with sidecar(plane.port, authority(tls), node="web-1.shop") as envoy:
        eventually(lambda: plane.counted("refusals_total", reason="other_pod") > 0, "it is refused")
        eventually(lambda: envoy.admin("/ready").strip() == "LIVE", "and ready")


@pytest.mark.alone
def test_envoy_starts_without_a_control_plane(tls: Path, record_property: Record) -> None:
    def seconds() -> float:
        start = monotonic()
        with sidecar(free_port(), authority(tls)) as envoy:
            eventually(lambda: envoy.admin("/ready").strip() == "LIVE", "Envoy is ready")
            return monotonic() - start

    found = least(seconds, 2.5)
    record_property(MEASURED, f"without a control plane, Envoy is ready after {found:.2f} s")
    assert found <= 2.5


def _answers(envoy: Any) -> str | None:
    try:
        found: str = envoy.ask()
    except OSError:
        return None
    return found


def _clusters(envoy: Any) -> set[str]:
    return {line.partition("::")[0] for line in envoy.admin("/clusters").splitlines()}


def _reconnects(envoy: Any) -> None:
    """Twice: the first handshake may have begun before."""
    seen = envoy.counted("cluster.controlplane.ssl.handshake")
    eventually(lambda: envoy.counted("cluster.controlplane.ssl.handshake") >= seen + 2, "two handshakes that succeed")
