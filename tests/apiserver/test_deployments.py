"""A user's whole experience: label the namespace, restart; take the label away, restart."""

from collections.abc import Callable, Iterator

import pytest

from tests.apiserver import binaries
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.control_plane import controller_manager
from tests.apiserver.objects import OPT_IN, SIDECAR, deployment, init_names, pod
from tests.apiserver.processes import eventually


@pytest.fixture(scope="module", autouse=True)
def controllers(kubernetes: Cluster, pytestconfig: pytest.Config) -> Iterator[None]:
    """What turns a Deployment into pods."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        binaries.kubernetes("kube-controller-manager")
    with controller_manager(kubernetes):
        yield


class Pods:
    """The pods of one namespace, as its controllers make and remove them."""

    def __init__(self, kubernetes: Cluster, namespace: str) -> None:
        self.kubernetes, self.namespace = kubernetes, namespace

    def with_sidecar(self, expected: bool) -> Object | None:
        for one in self.kubernetes.get("pods", "-n", self.namespace)["items"]:
            if (SIDECAR in init_names(one)) == expected:
                found: Object = one
                return found
        return None


def test_a_deployment_gets_injected_pods(kubernetes: Cluster, shop: str) -> None:
    kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=deployment(pod()))
    injected = eventually(lambda: Pods(kubernetes, shop).with_sidecar(True), "the Deployment's pod is there")
    assert injected["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"


def test_opting_in_and_restarting_brings_the_sidecar(
    kubernetes: Cluster, installation: object, new_namespace: Callable[..., str]
) -> None:
    plain = new_namespace({})
    pods = Pods(kubernetes, plain)
    kubernetes.kubectl("apply", "-n", plain, "-f", "-", stdin=deployment(pod()))
    eventually(lambda: pods.with_sidecar(False), "a pod without a sidecar is there")
    kubernetes.kubectl("label", "namespace", plain, "envoy-sidecar.io/inject=enabled")
    kubernetes.kubectl("rollout", "restart", "deployment", "-n", plain)
    assert eventually(lambda: pods.with_sidecar(True), "a pod with a sidecar is there")


def test_opting_out_and_restarting_takes_it_back(
    kubernetes: Cluster, installation: object, new_namespace: Callable[..., str]
) -> None:
    meshed = new_namespace(OPT_IN)
    pods = Pods(kubernetes, meshed)
    kubernetes.kubectl("apply", "-n", meshed, "-f", "-", stdin=deployment(pod()))
    eventually(lambda: pods.with_sidecar(True), "a pod with a sidecar is there")
    kubernetes.kubectl("label", "namespace", meshed, "envoy-sidecar.io/inject-")
    kubernetes.kubectl("rollout", "restart", "deployment", "-n", meshed)
    assert eventually(lambda: pods.with_sidecar(False), "a pod without a sidecar is there")
