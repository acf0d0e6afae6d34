"""Clusters on demand: a sidecar that may call everything asks for what it takes when it first calls it."""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from controlplane.extensions import Json
from tests.apiserver.processes import eventually
from tests.cluster import service, slice_of
from tests.dataplane.lab import Lab, Pod
from tests.dataplane.told import CLUSTER_IP, ControlPlane, admin, plain_replicas, started, until_told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]
MANY = 20


@pytest.fixture(scope="module")
def replicas(node: Lab) -> list[Pod]:
    return plain_replicas(node, "one", "two")


def cluster(replicas: list[Pod]) -> list[Json]:
    """Many Services of another namespace, all with the same endpoints."""
    addresses = [pod.address["ipv4"] for pod in replicas]
    names = [f"s{number}" for number in range(MANY)]
    return [
        *(service(name, "accounts", clusterIP=f"10.96.1.{number}") for number, name in enumerate(names)),
        *(slice_of(name, addresses, "accounts") for name in names),
    ]


def on_demand(node: Lab, replicas: list[Pod], folder: Path) -> tuple[Pod, ControlPlane, str]:
    """A caller, its control plane, and the option with which that one serves on demand."""
    pod, plane = started(node, folder)
    plane.say(*cluster(replicas))
    settings = folder / "settings.yaml"
    settings.write_text("controlplane: {scope: cluster, onDemand: true}\n")
    return pod, plane, f"--settings={settings}"


def call(pod: Pod, host: str, method: str = "GET", body: bytes | None = None) -> int:
    def ask() -> int:
        with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=20)) as connection:
            connection.request(method, "/", body, {"Host": host})
            with connection.getresponse() as response:
                return response.status

    return pod.call(ask)


def known(pod: Pod) -> set[str]:
    """The Services that the proxy has clusters of."""
    lines = admin(pod, "/clusters").splitlines()
    return {line.partition("::")[0] for line in lines if line.startswith("accounts/")}


def test_a_sidecar_knows_what_it_called_and_loses_nothing_with_the_control_plane(
    node: Lab, replicas: list[Pod], tmp_path: Path
) -> None:
    pod, plane, settings = on_demand(node, replicas, tmp_path)
    with plane.serving(settings) as process:
        until_told(pod, "out_80")
        assert known(pod) == set()
        assert [call(pod, "s1.accounts", method) for method in ("POST", "GET")] == [200, 200]
        assert known(pod) == {"accounts/s1:80"}
        process.kill()
        process.wait()
        assert {call(pod, "s1.accounts") for _ in range(10)} == {200}
        # The price of it, which docs/traffic.md tells.
        assert call(pod, "s2.accounts") == 503
    with plane.serving(settings):
        eventually(lambda: call(pod, "s2.accounts") == 200, "the control plane is asked again", seconds=60)
        assert {call(pod, "s1.accounts") for _ in range(10)} == {200}
        assert known(pod) == {"accounts/s1:80", "accounts/s2:80"}


def test_a_first_request_with_a_body_arrives_once_and_whole(node: Lab, replicas: list[Pod], tmp_path: Path) -> None:
    """And so do those that come at the same time."""
    size, callers = 1 << 20, 8
    pod, plane, settings = on_demand(node, replicas, tmp_path)
    with plane.serving(settings), counting(replicas[0]) as (port, received):
        plane.say(
            service("s1", "accounts", clusterIP="10.96.1.1"),
            slice_of("s1", [replicas[0].address["ipv4"]], "accounts", ports=[{"port": port}]),
        )
        until_told(pod, "out_80")
        with ThreadPoolExecutor(callers) as pool:
            bodies = [bytes([number]) * size for number in range(callers)]
            statuses = list(pool.map(lambda body: call(pod, "s1.accounts", "POST", body), bodies))
        assert statuses == [200] * callers
        assert sorted(received) == bodies


@contextmanager
def counting(pod: Pod) -> Iterator[tuple[int, list[bytes]]]:
    """A server in that pod, without a sidecar: its port, and the bodies that it got."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with pod.call(lambda: ThreadingHTTPServer(("0.0.0.0", 0), Handler)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1], received
        finally:
            server.shutdown()


def test_what_was_called_follows_its_endpoints_and_goes_with_its_service(
    node: Lab, replicas: list[Pod], tmp_path: Path
) -> None:
    pod, plane, settings = on_demand(node, replicas, tmp_path)
    with plane.serving(settings):
        until_told(pod, "out_80")
        assert call(pod, "s1.accounts") == 200
        plane.say(*cluster(replicas[1:]))
        gone = f"{replicas[0].address['ipv4']}:8080"
        eventually(lambda: gone not in admin(pod, "/clusters"), "the endpoint is gone", seconds=30)
        assert call(pod, "s1.accounts") == 200
        plane.say(*(one for one in cluster(replicas) if one["metadata"]["name"] not in ("s1", "s1-a")))
        eventually(lambda: known(pod) == set(), "the cluster is gone", seconds=30)
        assert call(pod, "s1.accounts") == 200  # it passes through
