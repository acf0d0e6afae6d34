"""A service of three replicas is rolled out while a caller asks it. Both have sidecars, and the real control plane says
which replicas there are; pods come and go as a Deployment, the kubelet and EndpointSlices let them."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from controlplane.extensions import Json
from tests.apiserver.admissions import MEASURED
from tests.apiserver.processes import eventually
from tests.bench.measure import least, percentile
from tests.cluster import endpoint, service, slice_of, terminating
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.pairs import IDLE
from tests.dataplane.steady import Steady
from tests.dataplane.told import CLUSTER_IP, ControlPlane, admin, control_plane, until_told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy, pytest.mark.kubelet_order]

REPLICAS = 3
WITHDRAWN_SECONDS = 3.0  # from a deletion until its slice says so; mostly it takes less than one


@pytest.fixture
def plane(node: Lab, tmp_path: Path) -> Iterator[ControlPlane]:
    made = control_plane(node, tmp_path)
    made.say()
    with made.serving():
        yield made


_NUMBERS = count()  # each pod has a name of its own: three streams are the most that the control plane gives one


class Deployment:
    """`orders`: its pods, and its endpoints as the control plane hears of them.

    An application that is told to end closes at once what is open; `sleep` (seconds) is its preStop hook, if any.
    """

    def __init__(self, node: Lab, plane: ControlPlane, sleep: int) -> None:
        self.pods: list[Pod] = []
        self._node, self._plane = node, plane
        self._hook: Json = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}} if sleep else {}
        self._endpoints: dict[str, Json] = {}
        self._ends: list[threading.Thread] = []
        self._slice = threading.Lock()

    def create(self) -> None:
        """One more, which is an endpoint as soon as it is ready."""
        app = application("lifecycle_app.py", "web", "8080", readinessProbe=asks(8080), **self._hook)
        pod = self._node.pod(manifest(f"orders-{next(_NUMBERS)}", app), settings=self._plane.settings)
        self.pods.append(pod)
        self._say(pod, endpoint(pod.address["ipv4"]))

    def delete(self) -> None:
        """The oldest, whose end takes its time, as does the news of it."""
        pod = self.pods.pop(0)

        def end() -> None:
            stopping = threading.Thread(target=pod.kubelet.stop)
            stopping.start()
            time.sleep(WITHDRAWN_SECONDS)
            self._say(pod, terminating(pod.address["ipv4"]))
            stopping.join()
            self._say(pod, None)

        self._ends.append(threading.Thread(target=end))
        self._ends[-1].start()

    def settle(self) -> None:
        """Until nothing of it ends any more."""
        for thread in self._ends:
            thread.join()

    def _say(self, pod: Pod, of_it: Json | None) -> None:
        with self._slice:
            self._endpoints.pop(pod.address["ipv4"], None)
            if of_it:
                self._endpoints[pod.address["ipv4"]] = of_it
            slices = slice_of("orders", [*self._endpoints.values()])
            self._plane.say(service("orders", clusterIP=CLUSTER_IP), slices)


def with_one_more(orders: Deployment) -> None:
    """maxSurge 1, maxUnavailable 0."""
    for _ in range(REPLICAS):
        orders.create()
        orders.delete()


def with_one_less(orders: Deployment) -> None:
    """maxSurge 0, maxUnavailable 1."""
    for _ in range(REPLICAS):
        orders.delete()
        orders.create()


rollouts = pytest.mark.parametrize("rollout", [with_one_more, with_one_less])
Rollout = Callable[[Deployment], None]
Record = Callable[[str, object], None]


@pytest.mark.alone
@rollouts
def test_every_request_is_answered_while_all_replicas_are_replaced(
    node: Lab, plane: ControlPlane, record_property: Record, rollout: Rollout
) -> None:
    """200 requests a second; the applications have a preStop sleep of 5 seconds."""

    def p99() -> float:
        load = rolled_out(node, plane, rollout, sleep=5)
        assert load.failures == []
        assert len(load.seconds) > 1000
        return measured(record_property, f"{rollout.__name__}, preStop sleep 5 s", load)

    assert least(p99, 0.025) <= 0.025  # the pods start and end on the caller's own cores


@rollouts
def test_without_a_prestop_hook_only_requests_that_meet_one_dead_replica_after_another_fail(
    node: Lab, plane: ControlPlane, record_property: Record, rollout: Rollout
) -> None:
    """All three old replicas are dead before the first is withdrawn."""
    load = rolled_out(node, plane, rollout, sleep=0)
    measured(record_property, f"{rollout.__name__}, no preStop", load)
    assert set(load.failures) <= {"status 503"}
    assert len(load.failures) < 0.1 * len(load.seconds)


def rolled_out(node: Lab, plane: ControlPlane, rollout: Rollout, *, sleep: int) -> Steady:
    """What a caller saw of it, who knew all replicas before."""
    orders = Deployment(node, plane, sleep)
    for _ in range(REPLICAS):
        orders.create()
    web = node.pod(manifest("web", IDLE), settings=plane.settings)
    until_told(web, "out_80")
    known = [f"{pod.address['ipv4']}:8080" for pod in orders.pods]
    eventually(lambda: all(one in admin(web, "/clusters") for one in known), "the caller is told of all replicas")
    load = Steady(web, CLUSTER_IP, "orders")
    with load.running(connections=10, rate=200):
        rollout(orders)
        orders.settle()
    for pod in (web, *orders.pods):  # there may be another round
        pod.kubelet.kill()
    return load


def measured(record_property: Record, how: str, load: Steady) -> float:
    """The 99th percentile of the answers, in seconds."""
    p50, p99 = (percentile(load.seconds, percent) for percent in (50, 99))
    answered = f"{len(load.seconds)} of {len(load.seconds) + len(load.failures)} answered"
    record_property(MEASURED, f"rollout, {how}: {answered}, p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms")
    return p99
