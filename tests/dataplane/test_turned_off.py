"""How an operator turns the control plane off for pods that run: by its settings, without a restart of any pod."""

from pathlib import Path

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.lab import lab, manifest
from tests.dataplane.services import service
from tests.dataplane.told import CLUSTER_IP, admin, ask, orders, replica, started, until_told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

LISTENER = "out_80"


def test_told_of_an_empty_list_a_pod_that_runs_passes_traffic_through_again_and_loses_no_request(
    tmp_path: Path,
) -> None:
    nothing = tmp_path / "settings.yaml"
    nothing.write_text("controlplane: {scope: list}\n")
    with lab(tmp_path / "lab") as node:
        replicas = [node.pod(manifest("one", replica("one")))]
        service(node, replicas)
        pod, plane = started(node, tmp_path)
        plane.say(*orders(replicas))

        def call() -> int:
            return pod.call(lambda: ask(CLUSTER_IP, 80, "/"))[0]

        with plane.serving():
            until_told(pod, LISTENER)
            assert call() == 200
        statuses: list[int] = []

        def passes_through() -> bool:
            statuses.append(call())
            return "shop/orders" not in admin(pod, "/clusters")

        with plane.serving("--settings", str(nothing)):
            eventually(passes_through, "the proxy has been told to forget it", seconds=60)
            statuses += [call() for _ in range(20)]
        assert set(statuses) == {200}
