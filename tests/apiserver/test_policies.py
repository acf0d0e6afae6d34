"""What RBAC cannot say: who writes our ConfigMaps, how a namespace opts in, that nothing slips through."""

from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.installation import BOOTSTRAP, DEVELOPER, GUARD_OF_CONFIG_MAPS, Installation
from tests.apiserver.objects import binding, config_map, generated
from tests.apiserver.processes import eventually

OURS = pytest.mark.parametrize("name", [BOOTSTRAP, "envoy-sidecar-ca"])
SYSTEM = "system:serviceaccount:kube-system"


@pytest.fixture
def do(kubernetes: Cluster, shop: str) -> Callable[..., Result]:
    """A kubectl command in an opted-in namespace, as somebody; a refusal is an answer like another."""

    def run(who: str | None, *arguments: str, stdin: Object | str = "") -> Result:
        somebody = (f"--as={who}",) if who else ()
        return kubernetes.kubectl(*arguments, "-n", shop, *somebody, stdin=stdin, check=False)

    return run


Do = Callable[..., Result]
Grant = Callable[[str, str], None]


@pytest.fixture
def grant(kubernetes: Cluster, do: Do) -> Iterator[Grant]:
    """Binds a ClusterRole to a user for a test, and waits until the API server knows it."""
    made: list[Object] = []

    def bind(cluster_role: str, user: str) -> None:
        made.append(binding(cluster_role, user))
        kubernetes.kubectl("apply", "-f", "-", stdin=made[-1])
        if cluster_role == "config-maps":
            eventually(lambda: do(user, "get", "configmaps").code == 0, f"{user} has the right")

    yield bind
    kubernetes.kubectl("delete", "-f", "-", stdin=made)
    users = {one["subjects"][0]["name"] for one in made}
    eventually(lambda: all(do(user, "get", "configmaps").code for user in users), "nobody has the right any more")


def refused(answer: Result) -> bool:
    """Refused by our policy, not for lack of a right."""
    return answer.code != 0 and GUARD_OF_CONFIG_MAPS in answer.stderr


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


def test_a_developer_cannot_have_such_a_name_generated(do: Do) -> None:
    generating = generated(config_map("any"), "envoy-sidecar-bootstrap-")
    assert refused(do(DEVELOPER, "create", "-f", "-", stdin=generating))


@pytest.mark.parametrize(
    ("account", "name", "other"),
    [
        ("envoy-sidecar-controlplane", BOOTSTRAP, "envoy-sidecar-ca"),
        ("envoy-sidecar-certs", "envoy-sidecar-ca", BOOTSTRAP),
    ],
)
def test_each_of_our_own_accounts_writes_its_own_config_map_alone(
    do: Do, grant: Grant, account: str, name: str, other: str
) -> None:
    who = f"system:serviceaccount:envoy-sidecar-system:{account}"
    grant("config-maps", who)
    assert do(who, "create", "-f", "-", stdin=config_map(name)).code == 0
    answer = do(who, "create", "-f", "-", stdin=config_map(other))
    assert (answer.code, "ValidatingAdmissionPolicy 'envoy-sidecar-" in answer.stderr) == (1, True)


def test_whoever_is_granted_the_right_may_write_our_config_maps(do: Do, grant: Grant) -> None:
    grant("config-maps", "installer")
    assert refused(do("installer", "create", "-f", "-", stdin=config_map(BOOTSTRAP)))
    grant("envoy-sidecar-bootstrap-writer", "installer")
    eventually(
        lambda: do("installer", "create", "-f", "-", stdin=config_map(BOOTSTRAP)).code == 0,
        "the right is in effect",
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


@pytest.mark.parametrize("system", ["kube-system", "kube-public", "envoy-sidecar-system"])
def test_opting_in_a_namespace_that_is_never_injected_warns(
    kubernetes: Cluster, installation: Installation, system: str
) -> None:
    label = ("label", "namespace", system, "envoy-sidecar.io/inject=enabled", "--dry-run=server")
    assert f"namespace {system} is never injected" in kubernetes.kubectl(*label).warnings
