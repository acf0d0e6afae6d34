"""The components `failure-policy-ignore` and `guard`, while the webhook is down: pods start without a
sidecar, and nothing slips through in silence."""

from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.cluster import Object, Result
from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_OUT, SIDECAR, container, container_names, init_names, pod
from tests.apiserver.processes import eventually
from tests.build import required_nodes

pytestmark = pytest.mark.usefixtures("down")
WINDOWS_NODES = required_nodes({"kubernetes.io/os": ("In", ["windows"])})
LINUX_NODES = required_nodes({"kubernetes.io/os": ("In", ["linux"])})
SKIPPED = {
    "opted_out": pod(labels=OPT_OUT),
    "host_network": pod(hostNetwork=True),
    "windows": pod(os={"name": "windows"}),
    "windows by node": pod(nodeSelector={"kubernetes.io/os": "windows"}),
    "windows by affinity": pod(affinity=WINDOWS_NODES),
}


COMPONENTS = ("failure-policy-ignore", "guard")


def speaks(installation: Installation) -> bool:
    return "envoy-sidecar-guard" in installation.ask(pod()).warnings


@pytest.fixture(scope="module")
def down(installation: Installation) -> Iterator[None]:
    """Nobody serves, and both components act."""
    with installation.overlay(*COMPONENTS, down=True):
        eventually(lambda: speaks(installation), "the guard speaks")
        yield


@pytest.fixture
def up(installation: Installation, down: None) -> Iterator[None]:
    """The webhook serves, and the guard, which spoke, still stands."""
    objects = installation.manifests(COMPONENTS)
    installation.apply(objects, installation.webhook)
    eventually(installation.injects, "pods come out with a sidecar")
    yield
    installation.apply(objects, installation.nobody())
    eventually(lambda: speaks(installation), "the guard speaks again")


@pytest.fixture
def answer(installation: Installation, shop: str) -> Result:
    """What is said to a plain pod of an opted-in namespace."""
    return installation.ask(pod(), within=shop)


def test_a_pod_is_admitted_as_it_was_written(answer: Result) -> None:
    assert answer.code == 0
    assert init_names(answer.object) == []


def test_a_pod_that_slipped_through_is_flagged_with_what_to_do(answer: Result) -> None:
    assert "recreate it" in answer.warnings


@pytest.mark.parametrize("skipped", SKIPPED.values(), ids=SKIPPED)
def test_a_pod_with_a_reason_to_be_skipped_is_not_flagged(
    installation: Installation, shop: str, skipped: Object
) -> None:
    assert installation.ask(skipped, within=shop).warnings == ""


def test_an_affinity_to_other_nodes_is_no_reason(installation: Installation, shop: str) -> None:
    assert "no sidecar" in installation.ask(pod(affinity=LINUX_NODES), within=shop).warnings


def test_a_pod_elsewhere_is_not_flagged(installation: Installation, new_namespace: Callable[..., str]) -> None:
    assert installation.ask(pod(), within=new_namespace({})).warnings == ""


def test_a_container_under_our_name_does_not_fool_the_guard(installation: Installation, shop: str) -> None:
    assert "no sidecar" in installation.ask(pod(containers=[container(SIDECAR)]), within=shop).warnings


@pytest.mark.parametrize("form", ["native", "classic"])
def test_an_injected_pod_is_not_flagged(installation: Installation, shop: str, up: None, form: str) -> None:
    answer = installation.ask(pod(annotations={"sidecar": form}), within=shop)
    assert SIDECAR in init_names(answer.object) + container_names(answer.object)
    assert answer.warnings == ""
