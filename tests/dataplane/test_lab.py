"""One injected pod talks to another: through the rules of their init containers, and both their Envoys."""

import http.client
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.container import CHECKOUT, expand
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.network import Family, require

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def pods(node: Lab) -> tuple[Pod, Pod]:
    made = [
        node.pod(manifest(name, application("echo.py", "8080", readinessProbe=asks(8080))))
        for name in ("web", "orders")
    ]
    return made[0], made[1]


def get(address: str, port: int, path: str = "/") -> tuple[int, str]:
    """Status and body."""
    with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def counted(pod: Pod, metric: str) -> float:
    """The value of a metric of the pod's sidecar, or 0 where it is not there yet."""
    page = pod.call(lambda: get("127.0.0.1", 15090, "/stats/prometheus")[1])
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(metric))


@families
def test_a_request_goes_through_both_sidecars(pods: tuple[Pod, Pod], family: Family) -> None:
    web, orders = pods
    before = [counted(web, OUT), counted(orders, IN)]
    assert web.call(lambda: get(orders.address[family], 8080)[0]) == 200
    assert [counted(web, OUT), counted(orders, IN)] == [before[0] + 1, before[1] + 1]


def test_values_are_put_in_place_as_the_kubelet_does_it() -> None:
    """https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/"""
    known = {"A": "1", "B": "$(A)"}
    assert expand("$(A) $$(A) $(B) $(C) $A $( $", known) == "1 $(A) $(A) $(C) $A $( $"


def test_a_lab_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    require()
    program = f"""
import signal, sys
from pathlib import Path
from tests.dataplane.lab import application, lab, manifest
with lab(Path({str(tmp_path)!r})) as node:
    pod = node.pod(manifest("web", application("echo.py", "8080")))
    held = [node.node.holder, pod.net.holder, *(pod.container(name).pid for name in ("app", "envoy-sidecar"))]
    print(*held, flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout
        pids = process.stdout.readline().split()
        assert len(pids) == 4
        process.kill()
    eventually(lambda: not any(runs(pid) for pid in pids), f"all of these processes are gone: {pids}", 5)


def runs(pid: str) -> bool:
    """Whether there is such a process; one that has ended may wait for a parent that asks."""
    try:
        return "\nState:\tZ" not in Path("/proc", pid, "status").read_text()
    except FileNotFoundError:
        return False


OUT = 'envoy_http_downstream_rq_completed{envoy_http_conn_manager_prefix="outbound"'
IN = 'envoy_http_downstream_rq_completed{envoy_http_conn_manager_prefix="inbound"'
