"""A bug of the control plane that makes clusters Envoy does not take: who calls those Services notices nothing."""

import json
from pathlib import Path

import pytest

from controlplane.extensions import Json
from tests.apiserver.processes import eventually
from tests.cluster import service, slice_of
from tests.dataplane.lab import lab, manifest
from tests.dataplane.services import service as kube_proxy
from tests.dataplane.told import CLUSTER_IP, admin, ask, orders, replica, started, until_told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

# `controlplane`, with a bug in the clusters of orders.
BROKEN = """
import json, sys
from controlplane.xds import clusters
make = clusters.cluster
def broken(name, *rest):
    return {**make(name, *rest), **(json.loads(%r) if 'orders' in name else {})}
clusters.cluster = broken
from controlplane.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "bug",
    [{"connect_timeout": "-1s"}, {"load_balancing_policy": {}, "lb_policy": "CLUSTER_PROVIDED"}],
    ids=["by our rules", "by Envoy"],
)
def test_a_service_whose_cluster_is_refused_is_called_as_if_nothing_were_told_of_it(tmp_path: Path, bug: Json) -> None:
    with lab(tmp_path / "lab") as node:
        replicas = [node.pod(manifest("one", replica("one")))]
        kube_proxy(node, replicas)
        pod, plane = started(node, tmp_path)
        plane.say(*orders(replicas), service("users", clusterIP="10.96.0.2"), slice_of("users"))
        with plane.serving(program=("-c", BROKEN % json.dumps(bug))):
            until_told(pod, "out_80")
            eventually(lambda: "shop/orders:80::" in admin(pod, "/clusters"), "it has something instead")
            eventually(lambda: "shop/users:80::" in admin(pod, "/clusters"), "it has the others")
            answers = [pod.call(lambda: ask(CLUSTER_IP, 80, "/")) for _ in range(10)]
        assert answers == [(200, "one")] * 10
        assert "shop/orders:80::10.96.0.1:80::" in admin(pod, "/clusters")
