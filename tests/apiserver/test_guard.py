"""The component `guard`: under `failure-policy-ignore` nothing slips through in silence."""

from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Object, Result
from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_OUT, SIDECAR, container, init_names, pod
from tests.apiserver.processes import eventually

Overlay = Callable[..., None]


def flagged(installation: Installation, shop: str) -> Result | None:
    """The answer to a plain pod, once the guard says something about it."""
    answer = installation.ask(pod(), within=shop)
    return answer if "no sidecar" in answer.warnings else None


def test_a_pod_that_slipped_through_is_flagged(installation: Installation, overlay: Overlay, shop: str) -> None:
    overlay("failure-policy-ignore", "guard", down=True)
    answer = eventually(lambda: flagged(installation, shop), "the guard speaks")
    assert init_names(answer.object) == []
    assert "recreate it" in answer.warnings


@pytest.mark.parametrize(
    "skipped",
    [
        pod(labels=OPT_OUT),
        pod(hostNetwork=True),
        pod(os={"name": "windows"}),
        pod(nodeSelector={"kubernetes.io/os": "windows"}),
    ],
    ids=["opted_out", "host_network", "windows", "windows by node"],
)
def test_a_pod_with_a_reason_to_be_skipped_is_not_flagged(
    installation: Installation, overlay: Overlay, shop: str, skipped: Object
) -> None:
    overlay("failure-policy-ignore", "guard", down=True)
    eventually(lambda: flagged(installation, shop), "the guard speaks")
    assert installation.ask(skipped, within=shop).warnings == ""


def test_a_pod_elsewhere_is_not_flagged(
    installation: Installation, overlay: Overlay, shop: str, new_namespace: Callable[..., str]
) -> None:
    overlay("failure-policy-ignore", "guard", down=True)
    eventually(lambda: flagged(installation, shop), "the guard speaks")
    assert installation.ask(pod(), within=new_namespace({})).warnings == ""


@pytest.mark.parametrize("form", ["native", "classic"])
def test_an_injected_pod_is_not_flagged(installation: Installation, overlay: Overlay, shop: str, form: str) -> None:
    overlay("guard")
    claims = pod(labels=OPT_OUT | {"envoy-sidecar.io/inject": "enabled"})
    assert claims
    answer = eventually(lambda: installation.ask(pod(annotations={"sidecar": form}), within=shop), "an answer")
    assert SIDECAR in str(answer.object["spec"])
    assert answer.warnings == ""


def test_a_container_under_our_name_does_not_fool_the_guard(
    installation: Installation, overlay: Overlay, shop: str
) -> None:
    overlay("failure-policy-ignore", "guard", down=True)
    eventually(lambda: flagged(installation, shop), "the guard speaks")
    forged = pod(containers=[container(SIDECAR)])
    assert "no sidecar" in installation.ask(forged, within=shop).warnings
