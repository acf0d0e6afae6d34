"""What a sidecar's pages say of what its pod calls, after real traffic, and what rules and `explain` make of it."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from controlplane.__main__ import main
from controlplane.extensions import Json
from tests.apiserver.processes import NotReadyError, eventually
from tests.cluster import service
from tests.dataplane.lab import Lab, Pod, application, manifest
from tests.dataplane.load import load
from tests.dataplane.told import CLUSTER_IP, ControlPlane, control_plane, orders, plain_replicas, until_told
from tests.monitoring import rules
from tests.monitoring.pages import series

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]
METRICS = 15090


@pytest.fixture(scope="module")
def replicas(node: Lab) -> list[Pod]:
    return plain_replicas(node, "one", "two")


@pytest.fixture(scope="module")
def cluster(replicas: list[Pod]) -> list[Json]:
    """Orders is of the caller's namespace, users is not; the ClusterIP that is dialled is that of users."""
    users = service("users", "accounts", clusterIP=CLUSTER_IP)
    there, endpoints = orders(replicas)
    return [{**there, "spec": {**there["spec"], "clusterIP": "10.96.0.2"}}, endpoints, users]


@pytest.fixture(scope="module")
def plane(node: Lab, cluster: list[Json], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    made = control_plane(node, tmp_path_factory.mktemp("controlplane"))
    made.say(*cluster)
    with made.serving():
        yield made


@pytest.fixture(scope="module")
def web(node: Lab, plane: ControlPlane) -> Pod:
    """It has called each of them, HTTP and not."""
    pod = node.pod(manifest("web", application("echo.py", "8080")), settings=plane.settings)
    until_told(pod, "out_80")
    for host, count in (("orders", 5), ("users.accounts", 3)):
        for _ in range(count):
            assert ask(pod, CLUSTER_IP, 80, "/", host)[0] == 200
    speak(pod)
    return pod


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


@pytest.fixture(scope="module")
def failing(web: Pod, replicas: list[Pod]) -> Pod:
    """The same, after orders has failed as a whole, so that all there is to count has happened."""
    for pod in replicas:
        pod.call(lambda: urlopen("http://127.0.0.1:8080/behave/503/20", timeout=10).close())
    eventually(lambda: {one.status for one in load(web, threads=20, each=5)} == {503}, "orders fails")
    eventually(lambda: "ejections_active" in page(web, "/stats/prometheus"), "an endpoint is left alone", seconds=30)
    return web


def test_what_rules_and_panels_ask_of_envoy_exists(failing: Pod) -> None:
    wanted = rules.of_envoy() | rules.kept()
    there = set[str]()

    def is_there() -> bool:
        """Histograms come to the page when Envoy sums them up, every five seconds."""
        there.update(*(series(page(failing, path)) for path in ("/stats/prometheus", "/stats/destinations")))
        return wanted <= there

    assert rules.of_envoy()
    with suppress(NotReadyError):
        eventually(is_there, "all of it is there", seconds=20)
    assert wanted - there == set()


def test_what_the_rules_make_of_these_pages_names_the_services(
    failing: Pod, plane: ControlPlane, tmp_path: Path
) -> None:
    """Each page at a rate at which Prometheus sees it grow."""
    with plane.lab.node.call(lambda: urlopen(f"http://127.0.0.1:{plane.port + 10_000}/metrics/services")) as answer:
        names = answer.read().decode()
    pages = "\n".join([page(failing, "/stats/prometheus"), page(failing, "/stats/destinations")])
    told = {f"{name}": f"0+{value:g}x20" for name, value in samples(pages) if name.startswith("envoy_cluster_")}
    said = {name: "1+0x20" for name, _ in samples(names)}
    spent, passed = (
        "service:envoy_sidecar_retry_budget_spent:ratio_rate5m",
        "pod_service:envoy_sidecar_passed_through:rate5m",
    )
    assert (
        rules.run(
            tmp_path,
            told | said,
            promql_expr_test=[
                is_of(f"{spent} > 0", "shop", "orders"),
                is_of("service:envoy_sidecar_retries_refused:rate5m > 0", "shop", "orders"),
                is_of("service:envoy_sidecar_errors:rate5m > 0", "shop", "orders"),
                is_of(f"{passed} > 0", "accounts", "users"),
            ],
        )
        == ""
    )


def is_of(expression: str, namespace: str, name: str) -> Json:
    """Of that Service, and of no other."""
    labels = f'{{destination_namespace="{namespace}",destination_service="{name}"}}'
    return {
        "expr": f"group by (destination_namespace, destination_service) ({expression})",
        "eval_time": "15m",
        "exp_samples": [{"labels": labels, "value": 1}],
    }


def samples(text: str) -> Iterator[tuple[str, float]]:
    """Each series of a page, as it is written there."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


def test_the_page_that_everybody_scrapes_holds_all_else(web: Pod) -> None:
    """By each kind of statistics that the bootstrap admits."""
    kinds = {name.split("_")[1] for name in series(page(web, "/stats/prometheus"))}
    assert kinds >= {"cluster", "control", "http", "listener", "runtime", "server", "tcp", "overload"}
