"""A pod's beginning and end, in the order that the kubelet documents: traffic flows from the application's first moment
to its last."""

import shlex
import signal
import threading
import time
from typing import Any, Literal

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.pairs import IDLE
from tests.dataplane.services import Service, service
from tests.dataplane.steady import Steady

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy, pytest.mark.kubelet_order]

GET = request("GET / HTTP/1.1", "Host: web")
forms = pytest.mark.parametrize("form", ["native", "classic"])
Form = Literal["native", "classic"]


@pytest.fixture(scope="module")
def server(node: Lab) -> Pod:
    return node.pod(manifest("server", web()), inject=False)


def web(**fields: Any) -> dict[str, Any]:
    return application("lifecycle_app.py", "web", "8080", readinessProbe=asks(8080), **fields)


def fetch(server: Pod, name: str = "app") -> dict[str, Any]:
    return application("lifecycle_app.py", "fetch", server.address["ipv4"], "8080", name=name)


def told(pod: Pod, *wanted: tuple[str, str]) -> list[tuple[str, str]]:
    """What happened in the pod, of what is `wanted`, in order."""
    return [(name, what) for _, name, what in pod.kubelet.events if (name, what) in wanted]


@forms
def test_the_applications_first_request_passes(node: Lab, server: Pod, form: Form) -> None:
    """It does not wait, or try again: the sidecar is ready before it starts."""
    job = manifest("job", fetch(server), annotations={"sidecar": form}, restartPolicy="Never")
    pod = node.create(job)
    pod.kubelet.start()
    assert pod.container("app").wait(20) == 0


def test_init_containers_of_the_application_have_the_network(node: Lab, server: Pod) -> None:
    pod = node.create(manifest("web", web(), initContainers=[fetch(server, "migrate")]))
    pod.kubelet.start()
    order = [("envoy-sidecar", "up"), ("migrate", "ended"), ("app", "started")]
    assert told(pod, *order) == order


def test_a_job_finishes_and_its_sidecar_with_it(node: Lab, server: Pod) -> None:
    pod = node.create(manifest("job", fetch(server), restartPolicy="Never"))
    pod.kubelet.start()
    pod.kubelet.wait(20)
    assert pod.container("app").exits == [0]
    assert pod.container("envoy-sidecar").wait(0) == 0


@forms
def test_the_sidecar_outlives_the_application(node: Lab, server: Pod, form: Form) -> None:
    """Its last request, made when it has been told to end, passes."""
    last = f"trap '{shlex.join(fetch(server)['command'])}; exit' TERM; touch /tmp/up; while :; do sleep 0.1; done"
    up = {"exec": {"command": ["test", "-e", "/tmp/up"]}}
    app = {**IDLE, "command": ["sh", "-c", last], "readinessProbe": up}
    pod = node.pod(manifest("web", app, annotations={"sidecar": form, "drain-seconds": "2"}))
    pod.kubelet.stop()
    assert pod.log("app").splitlines()[-1] == "200"
    assert pod.container("app").exits == [0]
    if form == "native":
        order = [("app", "ended"), ("envoy-sidecar", "SIGTERM"), ("envoy-sidecar", "ended")]
        assert told(pod, *order) == order


def test_a_sidecar_that_is_killed_comes_back_with_all_that_it_had(node: Lab, server: Pod) -> None:
    pod = node.pod(manifest("web", web()))
    envoy = pod.container("envoy-sidecar")
    assert envoy.process
    envoy.process.send_signal(signal.SIGKILL)  # as the kernel does for want of memory
    eventually(lambda: envoy.exits and pod.kubelet.ready(), "the sidecar is back")
    assert server.call(lambda: exchange(pod.address["ipv4"], 8080, GET)).status == 200
    assert pod.call(lambda: exchange(server.address["ipv4"], 8080, GET)).status == 200


# A rollout under load


def roll(node: Lab, orders: Service, sleep: int) -> None:
    """Replaces each pod: the new one is ready, the old one is deleted, and 3 seconds later no endpoint any more."""
    for old in list(orders.endpoints):
        hook = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}} if sleep else {}
        new = node.pod(manifest("orders", web(**hook)))
        orders.set([*orders.endpoints, new])
        ending = threading.Thread(target=old.kubelet.stop)
        ending.start()
        time.sleep(3)
        orders.set([pod for pod in orders.endpoints if pod is not old])
        ending.join()


def test_no_request_fails_while_a_server_is_rolled_out(node: Lab, server: Pod) -> None:
    """200 requests a second; the application has a preStop sleep of 5 seconds."""
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}
    orders = service(node, [node.pod(manifest("orders", web(**hook))) for _ in range(2)])
    load = Steady(server, orders.address["ipv4"], "orders")
    with load.running(connections=10, rate=200):
        roll(node, orders, sleep=5)
    assert load.failures == []
    assert len(load.seconds) > 1000
