"""Namespaces that enforce a PodSecurity level: what redirection needs is forbidden there."""

from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Cluster, Result
from tests.apiserver.objects import OPT_IN, SIDECAR, container, deployment, init_names, pod

ENFORCE = "pod-security.kubernetes.io/enforce"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
LEVELS = pytest.mark.parametrize("level", ["baseline", "restricted"])


@pytest.fixture
def create(kubernetes: Cluster, installation: object, new_namespace: Callable[..., str]) -> Callable[..., Result]:
    """Creates a pod that the level itself has nothing against, in a namespace at that level."""

    def kubectl_create(level: str | None, **annotations: str) -> Result:
        enforced = new_namespace(OPT_IN | ({ENFORCE: level} if level else {}))
        good = pod(annotations=annotations, containers=[container(securityContext=RESTRICTED)])
        command = ("create", "-n", enforced, "-o", "json", "-f", "-")
        return kubernetes.kubectl(*command, stdin=good, check=False)

    return kubectl_create


Create = Callable[..., Result]


@LEVELS
def test_a_redirected_pod_is_refused_with_the_label_and_the_way_out(create: Create, level: str) -> None:
    refused = create(level)
    assert refused.code != 0
    assert f"{ENFORCE}={level}" in refused.stderr
    assert "envoy-sidecar.io/mode: none" in refused.stderr


@LEVELS
def test_mode_none_is_admitted(create: Create, level: str) -> None:
    stored = create(level, mode="none")
    assert init_names(stored.object) == [SIDECAR], stored.stderr


def test_the_level_privileged_forbids_nothing(create: Create) -> None:
    stored = create("privileged")
    assert SIDECAR in init_names(stored.object), stored.stderr


def test_mode_none_is_for_namespaces_that_need_it(create: Create) -> None:
    assert "authors.allow.mode" in create(None, mode="none").stderr


@LEVELS
def test_applying_a_deployment_there_warns_its_author_at_once(
    kubernetes: Cluster, installation: object, new_namespace: Callable[..., str], level: str
) -> None:
    enforced = new_namespace(OPT_IN | {ENFORCE: level})
    applied = kubernetes.kubectl("apply", "-n", enforced, "-f", "-", stdin=deployment(pod()))
    assert "envoy-sidecar.io/mode: none" in applied.warnings
