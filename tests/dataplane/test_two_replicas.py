"""Two replicas of the control plane with the same manifests: whichever a proxy asks, it is told the same."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.lab import NODE, Lab, Pod, manifest
from tests.dataplane.pairs import IDLE
from tests.dataplane.steady import Steady
from tests.dataplane.told import (
    CLUSTER_IP,
    NAME,
    PROGRAM,
    ControlPlane,
    admin,
    ask,
    control_plane,
    orders,
    replica,
    until_told,
)

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

OTHER = "10.77.0.253"  # the second replica's address; the first one's is the node's
# `controlplane`, with streams that end after two seconds instead of half an hour.
SHORT = """
import sys
from controlplane.xds.transport import Limits
Limits.__init__.__kwdefaults__["connection_age"] = 2.0
from controlplane.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def place(node: Lab) -> Lab:
    """One name of two addresses, as that of a headless Service."""
    node.node.run("ip", "address", "add", OTHER, "dev", "lo")
    node.hosts[f"{NAME} other.lab"] = OTHER
    return node


@pytest.fixture(scope="module")
def pods(place: Lab) -> list[Pod]:
    """Those of orders."""
    return [place.pod(manifest(name, replica(name))) for name in ("one", "two")]


class Replica:
    """One of the two, which can be asked about itself."""

    def __init__(self, plane: ControlPlane, address: str, pages: int, program: Sequence[str] = PROGRAM) -> None:
        self._plane, self._pages, self._program = plane, pages, program
        self._options = ("--xds-address", f"{address}:{plane.port}", "--metrics-port", f"{pages}")
        self._stack = ExitStack()

    def start(self) -> None:
        self.process = self._stack.enter_context(self._plane.serving(*self._options, program=self._program))
        eventually(lambda: self.metric("streams") == 0, "it answers")

    def stop(self) -> None:
        self._stack.close()

    def metric(self, name: str) -> float | None:
        """The sum over all labels; None where nobody answers."""
        try:
            text = self._plane.lab.node.call(lambda: ask("127.0.0.1", self._pages, "/metrics"))[1]
        except OSError:
            return None
        lines = [line for line in text.splitlines() if line.startswith(f"envoy_sidecar_controlplane_xds_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def holds(self, pod: str) -> Mapping[str, Any]:
        """What a pod's proxy has, by type, name and version."""
        path = f"/debug/proxies/shop/{pod}"
        page = self._plane.lab.node.call(lambda: ask("127.0.0.1", self._pages, path, host="localhost"))[1]
        found: Mapping[str, Any] = json.loads(page)[0]["holds"]
        return found


@contextmanager
def pair(
    place: Lab, pods: Sequence[Pod], folder: Path, program: Sequence[str] = PROGRAM
) -> Iterator[tuple[Replica, Replica, ControlPlane]]:
    """Both, which do not run yet, and what pods that ask them need."""
    folders = [folder / "first", folder / "second"]
    for one in folders:
        one.mkdir()
    plane = control_plane(place, folders[0])
    twin = replace(plane, folder=folders[1])
    for either in (plane, twin):
        either.say(*orders(pods, timeout="5s"))
    pages = plane.port + 10_000
    first = Replica(plane, NODE["ipv4"], pages, program)
    second = Replica(twin, OTHER, pages + 1, program)
    with ExitStack() as stack:
        for made in (first, second):
            stack.callback(made.stop)
        yield first, second, plane


@pytest.fixture
def two(place: Lab, pods: Sequence[Pod], tmp_path: Path) -> Iterator[tuple[Replica, Replica, ControlPlane]]:
    with pair(place, pods, tmp_path) as made:
        for one in made[:2]:
            one.start()
        yield made


def test_a_proxy_that_moves_to_another_replica_is_told_nothing_new_and_fails_no_request(
    place: Lab, two: tuple[Replica, Replica, ControlPlane]
) -> None:
    """From one that is killed to the other, and back from one that stops in order."""
    *replicas, plane = two
    pod = place.pod(manifest("web", IDLE), settings=plane.settings)
    until_told(pod, "out_80")
    before = changes(pod)
    load = Steady(pod, CLUSTER_IP, "orders")
    with load.running(connections=4, rate=100):
        for end in ("kill", "terminate"):
            here, there = sorted(replicas, key=lambda one: one.metric("streams") or 0, reverse=True)
            held, sent = here.holds("web"), here.metric("sent_bytes_total") or 0
            getattr(here.process, end)()
            eventually(partial(serves, there), "the other one is asked, for all types", seconds=60)
            assert there.holds("web") == held
            assert (there.metric("sent_bytes_total") or 0) < 500, f"of {sent} bytes"
            here.stop()
            here.start()
    assert load.failures == []
    assert len(load.seconds) > 100
    assert changes(pod) == before


def test_a_replica_that_starts_later_gets_its_share_of_the_proxies_and_no_request_fails(
    place: Lab, pods: Sequence[Pod], tmp_path: Path
) -> None:
    with pair(place, pods, tmp_path, ("-c", SHORT)) as (first, second, plane):
        first.start()
        callers = [place.pod(manifest(f"web-{number}", IDLE), settings=plane.settings) for number in range(5)]
        for pod in callers:
            until_told(pod, "out_80")
        before = [changes(pod) for pod in callers]
        load = Steady(callers[0], CLUSTER_IP, "orders")
        with load.running(connections=2, rate=50):
            second.start()
            eventually(partial(keep_proxies, (first, second)), "both keep proxies", seconds=60)
    assert load.failures == []
    assert len(load.seconds) > 50
    assert [changes(pod) for pod in callers] == before


def keep_proxies(replicas: Sequence[Replica]) -> bool:
    """Whether each of them has some all the time for 2 s: such as all go back and forth do so within half of that."""
    end = monotonic() + 2
    while monotonic() < end:
        if not all(one.metric("streams") for one in replicas):
            return False
    return True


def serves(replica: Replica) -> bool:
    """Whether the proxy has asked that one for all four types."""
    return replica.metric("streams") == 1 and len(replica.holds("web")) == 4


def changes(pod: Pod) -> dict[str, str]:
    """How often its Envoy has made or changed a cluster, a listener or routes."""
    lines = (line.partition(": ") for line in admin(pod, "/stats").splitlines())
    counts = ("cluster_added", "cluster_modified", "listener_added", "listener_modified", "config_reload")
    return {name: value for name, _, value in lines if name.rpartition(".")[2] in counts}


def test_what_people_ask_is_answered_on_loopback_alone(place: Lab, tmp_path: Path) -> None:
    """Whatever a header says of where it comes from."""
    plane = control_plane(place, tmp_path)
    plane.say()
    pages = plane.port + 10_000

    def status(address: str, path: str, method: str = "GET") -> int:
        headers = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
        return place.node.call(lambda: ask(address, pages, path, method, "localhost", **headers))[0]

    with plane.serving("--metrics-address", "::"):
        eventually(partial(is_open, place, pages), "it answers")
        for loopback in ("127.0.0.1", "::1"):
            assert status(loopback, "/debug/proxies") == status(loopback, "/debug/release", "POST") == 200
        for address in (*NODE.values(), OTHER):
            assert status(address, "/metrics") == 200
            assert status(address, "/debug/proxies") == status(address, "/debug/release", "POST") == 404


def is_open(place: Lab, port: int) -> bool:
    try:
        return place.node.call(lambda: ask("127.0.0.1", port, "/readyz"))[0] == 200
    except OSError:
        return False
