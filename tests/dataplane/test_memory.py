"""What a sidecar holds of memory in a large cluster depends on what its pod is told of, not on what there is."""

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from controlplane.extensions import Json
from tests.apiserver.admissions import MEASURED
from tests.apiserver.processes import eventually
from tests.bench.contestants import rss_megabytes
from tests.cluster import service, slice_of
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, manifest
from tests.dataplane.pairs import IDLE
from tests.dataplane.told import admin, control_plane, replica

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

SERVICES, OWN = 5000, 20  # in the cluster; in each namespace
CLUSTER_SECONDS = 120  # until a sidecar has all of them


@pytest.fixture(scope="module")
def orders(node: Lab) -> Pod:
    """Which stands behind every Service."""
    return node.pod(manifest("orders", replica("orders")), inject=False)


def place(number: int) -> tuple[str, str, str]:
    """Name, namespace and address of a Service; the first are those of the pod's own namespace."""
    namespace, within = divmod(number, OWN)
    return f"s{within}", f"n{namespace}" if namespace else "shop", f"10.96.{number // 250}.{number % 250 + 1}"


def cluster(address: str) -> list[Json]:
    """All of them at that address."""
    made = []
    for number in range(SERVICES):
        name, namespace, ip = place(number)
        made += [service(name, namespace, clusterIP=ip), slice_of(name, [address], namespace)]
    return made


def ask(number: int) -> int:
    name, namespace, address = place(number)
    with closing(http.client.HTTPConnection(address, 80, timeout=30)) as connection:
        connection.request("GET", "/", headers={"Host": f"{name}.{namespace}"})
        with connection.getresponse() as response:
            response.read()
            return response.status


def services(pod: Pod) -> int:
    """How many its proxy has a cluster of."""
    names = {line.partition("::")[0] for line in admin(pod, "/clusters").splitlines()}
    return sum("/" in name and not name.startswith("/") for name in names)


def scraped(pod: Pod) -> bool:
    """Asks for its metrics, as Prometheus does."""
    page = exchange(pod.address["ipv4"], 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x"))
    return b"envoy_server_uptime" in page.body


@pytest.mark.parametrize(
    ("settings", "told", "most"),
    [
        ("scope: namespace", OWN, 80),
        ("scope: cluster, onDemand: true", 0, 250),
        ("scope: cluster", SERVICES, 600),
    ],
)
def test_a_sidecar_holds_what_its_pod_is_told_of(
    node: Lab,
    orders: Pod,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    settings: str,
    told: int,
    most: float,
) -> None:
    """In MiB, resident, after ten requests to each Service of its namespace, and one for the metrics."""
    plane = control_plane(node, tmp_path)
    plane.manifests.mkdir()
    objects = {"apiVersion": "v1", "kind": "List", "items": cluster(orders.address["ipv4"])}
    (plane.manifests / "cluster.json").write_text(json.dumps(objects))
    (tmp_path / "settings.yaml").write_text(f"controlplane: {{{settings}}}\n")
    with plane.serving(f"--settings={tmp_path / 'settings.yaml'}"):
        web = node.pod(manifest("web", IDLE), settings=plane.settings)
        eventually(lambda: services(web) == told, f"the sidecar is told of {told} Services", CLUSTER_SECONDS)
        eventually(lambda: "out_80" in admin(web, "/listeners"), "it listens for them", CLUSTER_SECONDS)
        assert web.call(lambda: [ask(number) for _ in range(10) for number in range(OWN)]) == [200] * 10 * OWN
        assert node.node.call(lambda: scraped(web))
        held = rss_megabytes(web.container("envoy-sidecar").pid)
    record_property(MEASURED, f"{SERVICES} Services, {settings}: a sidecar holds {held:.0f} MiB")
    assert held <= most
