"""A pod that starts while there is no control plane: how soon it is ready, and whether its traffic flows."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from tests.apiserver.admissions import MEASURED
from tests.bench.measure import least
from tests.dataplane.dns import dns
from tests.dataplane.lab import NODE, Lab, Pod, application, asks, manifest
from tests.dataplane.told import CLUSTER_IP, NAME, ControlPlane, ask, control_plane, plain_replicas

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

READY_SECONDS = 2.5  # the issue's
BLACK_HOLE = "10.99.0.1"


@pytest.fixture(scope="module")
def place(node: Lab) -> Lab:
    """A node with a replica of orders, that knows a way that leads nowhere; its DNS server knows no name."""
    plain_replicas(node, "one")
    node.node.run("ip", "route", "add", "blackhole", f"{BLACK_HOLE}/32")
    return node


def created(place: Lab, plane: ControlPlane, address: str | None, nameserver: str) -> Pod:
    """A pod that does not run yet, for which the control plane's name stands for that, by that DNS server or a file."""
    place.hosts = {NAME: address} if address else {}
    container = application("echo.py", "8080", readinessProbe=asks(8080))
    pod = place.create(manifest("web", container), settings=plane.settings)
    resolver = pod.folder / "etc" / "resolv.conf"
    resolver.write_text(resolver.read_text().replace(NODE["ipv4"], nameserver))
    return pod


@pytest.mark.alone
@pytest.mark.parametrize(
    ("address", "nameserver"),
    [
        pytest.param(NODE["ipv4"], NODE["ipv4"], id="refuses"),
        pytest.param(BLACK_HOLE, NODE["ipv4"], id="never answers"),
        pytest.param(None, NODE["ipv4"], id="has no address"),
        pytest.param(None, BLACK_HOLE, id="is looked up in vain"),
    ],
)
def test_a_pod_is_ready_in_time_and_its_traffic_flows_where_the_control_plane(
    place: Lab,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
    address: str | None,
    nameserver: str,
) -> None:
    plane = control_plane(place, tmp_path)

    def seconds() -> float:
        pod = created(place, plane, address, nameserver)
        began = monotonic()
        pod.kubelet.start()
        pod.kubelet.wait_until_ready(4 * READY_SECONDS)  # in every round
        took = monotonic() - began
        assert pod.call(lambda: ask(CLUSTER_IP, 80, "/")) == (200, "one")
        pod.kubelet.kill()
        return took

    with dns(place.node, {}):
        found = least(seconds, READY_SECONDS)
    record_property(MEASURED, f"a pod whose control plane {request.node.callspec.id}: ready after {found:.2f} s")
    assert found <= READY_SECONDS
