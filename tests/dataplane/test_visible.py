"""What a sidecar's pages say of what its pod calls, after real traffic, and what rules and `explain` make of it."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from controlplane.__main__ import main
from controlplane.extensions import Json
from tests.apiserver.processes import eventually
from tests.cluster import service as service_object
from tests.dataplane.lab import Lab, Pod, application, lab, manifest
from tests.dataplane.services import service
from tests.dataplane.told import CLUSTER_IP, orders, replica, told, until_told
from tests.monitoring.pages import series

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]
METRICS = 15090


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(node: Lab) -> list[Json]:
    """Orders is of the caller's namespace, users is not; the ClusterIP that is dialled decides which one it is."""
    replicas = [node.pod(manifest(name, replica(name)), inject=False) for name in ("one", "two")]
    service(node, replicas)
    users = service_object("users", "accounts", clusterIP=CLUSTER_IP)
    there, endpoints = orders(replicas)
    return [{**there, "spec": {**there["spec"], "clusterIP": "10.96.0.2"}}, endpoints, users]


@pytest.fixture(scope="module")
def web(node: Lab, cluster: list[Json], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """It has called each of them, HTTP and not."""
    pod, plane = told(node, manifest("web", application("echo.py", "8080")), tmp_path_factory.mktemp("controlplane"))
    plane.say(*cluster)
    with plane.serving():
        pod.kubelet.start()
        pod.kubelet.wait_until_ready()
        until_told(pod, "out_80/shop")
        for host, count in (("orders", 5), ("users.accounts", 3)):
            for _ in range(count):
                assert ask(pod, CLUSTER_IP, 80, "/", host)[0] == 200
        speak(pod)
        yield pod


def page(pod: Pod, path: str) -> str:
    return ask(pod, "127.0.0.1", METRICS, path)[1]


def ask(pod: Pod, address: str, port: int, path: str, host: str = "x") -> tuple[int, str]:
    def exchange() -> tuple[int, str]:
        with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
            connection.request("GET", path, headers={"Host": host})
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    return pod.call(exchange)


def speak(pod: Pod) -> None:
    """No HTTP, over a connection that is there until it is counted."""
    line = f'endpoint_address="{CLUSTER_IP}:80"'

    def counted() -> bool:
        return any(line in one and one.endswith(" 4") for one in page(pod, "/stats/destinations").splitlines())

    with pod.call(lambda: socket.create_connection((CLUSTER_IP, 80), timeout=10)) as connection:
        connection.sendall(b"\x00\x01\x02")
        eventually(counted, "it is counted")


def explained(pod: Pod, cluster: list[Json], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `explain` makes of the pod's page."""
    (folder / "cluster.yaml").write_text(yaml.safe_dump_all(cluster))
    (folder / "page").write_text(page(pod, "/stats/destinations"))
    arguments = ["explain", "-f", str(folder / "cluster.yaml"), "--node", "shop/web-1", "--calls", str(folder / "page")]
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_services_that_passed_through_unlisted_are_named_with_the_line_to_add(
    web: Pod, cluster: list[Json], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = explained(web, cluster, tmp_path, capsys)
    assert f"accounts/users at {CLUSTER_IP}:80 passed through 4 times" in said
    assert "shop/orders was called 5 times, as its sidecar is told." in said
    assert 'envoy-sidecar.io/upstreams: "orders,users.accounts"' in said


def test_the_page_that_everybody_scrapes_does_not_grow_with_what_is_called(web: Pod) -> None:
    assert CLUSTER_IP in page(web, "/stats/destinations")
    assert CLUSTER_IP not in page(web, "/stats/prometheus")


def test_the_page_that_everybody_scrapes_holds_all_else(web: Pod) -> None:
    """By each kind of statistics that the bootstrap admits."""
    kinds = {name.split("_")[1] for name in series(page(web, "/stats/prometheus"))}
    assert kinds >= {"cluster", "control", "http", "listener", "runtime", "server", "tcp", "overload"}
