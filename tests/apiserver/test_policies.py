"""What RBAC cannot say: who writes our ConfigMaps, how a namespace opts in, that nothing slips through."""

from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.installation import BOOTSTRAP, DEVELOPER, Installation
from tests.apiserver.objects import OPT_OUT, config_map, init_names, pod
from tests.apiserver.processes import eventually

OURS = pytest.mark.parametrize("name", [BOOTSTRAP, "envoy-sidecar-ca"])
SYSTEM = "system:serviceaccount:kube-system"
CONTROL_PLANE = "system:serviceaccount:envoy-sidecar-system:envoy-sidecar-controlplane"
CERTS = "system:serviceaccount:envoy-sidecar-system:envoy-sidecar-certs"


@pytest.fixture
def do(kubernetes: Cluster, shop: str) -> Callable[..., Result]:
    """A kubectl command in an opted-in namespace, as somebody; a refusal is an answer like another."""

    def run(who: str | None, *arguments: str, stdin: Object | str = "") -> Result:
        somebody = (f"--as={who}",) if who else ()
        return kubernetes.kubectl(*arguments, "-n", shop, *somebody, stdin=stdin, check=False)

    return run


Do = Callable[..., Result]


def refused(answer: Result, name: str = "envoy-sidecar") -> bool:
    """Refused by our policy, not for lack of a right."""
    return answer.code != 0 and "ValidatingAdmissionPolicy" in answer.stderr and name in answer.stderr


@OURS
def test_a_developer_cannot_create_our_config_maps(do: Do, name: str) -> None:
    assert refused(do(DEVELOPER, "create", "-f", "-", stdin=config_map(name)))


@OURS
def test_a_developer_cannot_change_our_config_maps(do: Do, name: str) -> None:
    do(None, "create", "-f", "-", stdin=config_map(name))
    assert refused(do(DEVELOPER, "label", "configmap", name, "mine=yes"))


@OURS
def test_a_developer_cannot_delete_our_config_maps(do: Do, name: str) -> None:
    do(None, "create", "-f", "-", stdin=config_map(name))
    assert refused(do(DEVELOPER, "delete", "configmap", name))


def test_a_developer_cannot_delete_our_config_maps_among_all_others(do: Do, kubernetes: Cluster, shop: str) -> None:
    do(None, "create", "-f", "-", stdin=config_map(BOOTSTRAP))
    all_of_them = f"/api/v1/namespaces/{shop}/configmaps"
    answer = kubernetes.kubectl("delete", "--raw", all_of_them, f"--as={DEVELOPER}", check=False)
    assert refused(answer)
    assert do(None, "get", "configmap", BOOTSTRAP).code == 0


def test_a_developer_has_every_other_config_map(do: Do) -> None:
    assert do(DEVELOPER, "create", "-f", "-", stdin=config_map("envoy-sidecar-notes")).code == 0
    assert do(DEVELOPER, "label", "configmap", "envoy-sidecar-notes", "mine=yes").code == 0
    assert do(DEVELOPER, "delete", "configmap", "envoy-sidecar-notes").code == 0


@OURS
def test_the_cluster_admin_may_write_our_config_maps(do: Do, name: str) -> None:
    assert do(None, "create", "-f", "-", stdin=config_map(name)).code == 0
    assert do(None, "delete", "configmap", name).code == 0


def test_whoever_is_granted_the_right_by_rbac_may_write_our_config_maps(do: Do, kubernetes: Cluster) -> None:
    granted = role("sidecar-installer", "envoy-sidecar.io", "bootstraps", "write")
    kubernetes.kubectl("create", "-f", "-", stdin=granted)
    for grant in ("sidecar-installer", "admin"):
        kubernetes.kubectl(
            "create", "clusterrolebinding", f"installer-{grant}", f"--clusterrole={grant}", "--user=installer"
        )
    assert eventually(
        lambda: do("installer", "create", "-f", "-", stdin=config_map(BOOTSTRAP)).code == 0, "the right is known"
    )


@pytest.mark.parametrize("controller", ["generic-garbage-collector", "namespace-controller"])
def test_the_controllers_that_clean_up_may_delete_our_config_maps(do: Do, controller: str) -> None:
    do(None, "create", "-f", "-", stdin=config_map(BOOTSTRAP))
    deleted = do(f"{SYSTEM}:{controller}", "delete", "configmap", BOOTSTRAP)
    assert deleted.code == 0, deleted.stderr


def test_labelling_a_namespace_with_anything_but_enabled_warns(kubernetes: Cluster, shop: str) -> None:
    labelled = kubernetes.kubectl("label", "namespace", shop, "envoy-sidecar.io/inject=true", "--overwrite")
    assert "enabled" in labelled.warnings


@pytest.mark.parametrize("change", ["envoy-sidecar.io/inject=enabled", "envoy-sidecar.io/inject-"])
def test_opting_in_and_out_says_nothing(
    kubernetes: Cluster, installation: object, new_namespace: Callable[..., str], change: str
) -> None:
    fresh = new_namespace({} if change.endswith("enabled") else {"envoy-sidecar.io/inject": "enabled"})
    assert kubernetes.kubectl("label", "namespace", fresh, change).warnings == ""


def test_with_opt_out_denied_a_pod_that_opts_out_is_refused_with_our_message(
    installation: Installation, overlay: Callable[..., None], shop: str
) -> None:
    overlay("opt-out-denied")
    answer = installation.refused(pod(labels=OPT_OUT), shop)
    assert "envoy-sidecar.io/inject=disabled is not allowed here" in answer.stderr


def test_with_opt_out_denied_other_pods_are_injected_as_before(
    installation: Installation, overlay: Callable[..., None], shop: str
) -> None:
    overlay("opt-out-denied")
    installation.refused(pod(labels=OPT_OUT), shop)
    assert "envoy-sidecar" in init_names(installation.ask(pod(), within=shop).object)


def role(name: str, group: str, resource: str, verb: str) -> Object:
    rule = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    return kind | {"metadata": {"name": name}, "rules": [rule]}
