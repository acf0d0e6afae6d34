"""Limits that protect a sidecar, and the node it runs on: memory, and connections."""

import signal
from contextlib import ExitStack, suppress

import pytest

from tests import build
from tests.apiserver.processes import eventually
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Pod, application, asks, manifest
from tests.dataplane.memory import limited
from tests.dataplane.pairs import Pairs
from tests.dataplane.wire import dial

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

APP = 8080
GET = request("GET / HTTP/1.1", "Host: web")
MIB = 1 << 20


def web(between: Pairs, settings: str = "{}") -> Pod:
    app = application("echo.py", f"{APP}", readinessProbe=asks(APP))
    return between.lab.pod(manifest("web", app), settings=build.operator(settings))


def test_near_its_memory_limit_it_refuses_requests_and_then_serves_again(between: Pairs) -> None:
    """The limit is the container's own, whatever it is: here that of the settings."""
    pod = web(between, "sidecar: {resources: {memoryLimit: 200Mi}}")
    client, used = between.clients[False], pod.folder / "envoy-sidecar/cgroup/memory.current"

    def status() -> int:
        return client.call(lambda: exchange(pod.address["ipv4"], APP, GET)).status

    assert status() == 200
    used.write_text(f"{199 * MIB}\n")
    eventually(lambda: status() == 503, "requests are refused")
    assert pod.kubelet.passes(pod.container("envoy-sidecar"), "readinessProbe")
    used.write_text(f"{100 * MIB}\n")
    eventually(lambda: status() == 200, "requests are served")
    assert pod.container("envoy-sidecar").exits == []


def test_more_connections_than_the_operator_allows_are_refused(between: Pairs) -> None:
    """Probes and monitors get through all the same."""
    pod = web(between, "bootstrap: {maxConnections: 5}")
    client = between.clients[False]
    with ExitStack() as stack:

        def served() -> bool:
            connection = stack.enter_context(dial(client, pod.address["ipv4"], APP))
            connection.sendall(GET)
            try:
                return connection.recv(100) != b""
            except ConnectionResetError:
                return False

        outcomes = [served() for _ in range(8)]
        assert outcomes == [True] * 5 + [False] * 3
        assert pod.kubelet.passes(pod.container("envoy-sidecar"), "readinessProbe")
        page = client.call(
            lambda: exchange(pod.address["ipv4"], 15090, request("GET /stats/prometheus HTTP/1.1", "Host: x"))
        )
        assert page.status == 200


def test_a_sidecar_that_the_kernel_kills_for_its_memory_comes_back(between: Pairs) -> None:
    pod = web(between)
    client, envoy = between.clients[False], pod.container("envoy-sidecar")
    with limited(envoy.pid, 4 * MIB), ExitStack() as stack:
        for _ in range(100):
            with suppress(OSError):  # it is gone
                connection = stack.enter_context(dial(client, pod.address["ipv4"], APP))
                connection.sendall(GET[:-2] + b"X-Large: " + b"a" * 200_000)
        eventually(lambda: envoy.exits, "the kernel kills it")
    assert envoy.exits == [-signal.SIGKILL]
    eventually(pod.kubelet.ready, "the pod is ready")
    assert client.call(lambda: exchange(pod.address["ipv4"], APP, GET)).status == 200
    assert pod.call(lambda: exchange(client.address["ipv4"], APP, GET)).status == 503  # by way of its sidecar
