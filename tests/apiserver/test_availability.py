"""The webhook is down: who is hurt, and who is not."""

from collections.abc import Callable

from tests.apiserver.cluster import Cluster, Result
from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_OUT, init_names, pod
from tests.apiserver.processes import eventually

Overlay = Callable[..., None]


def test_by_default_pods_are_refused_while_the_webhook_is_down(
    installation: Installation, overlay: Overlay, shop: str
) -> None:
    overlay(down=True)
    answer = installation.refused(pod(), shop)
    assert "failed calling webhook" in answer.stderr


def test_pods_elsewhere_and_pods_that_opted_out_are_created_while_the_webhook_is_down(
    installation: Installation, overlay: Overlay, shop: str, new_namespace: Callable[..., str]
) -> None:
    overlay(down=True)
    installation.refused(pod(), shop)
    assert installation.ask(pod(), within=new_namespace({})).code == 0
    assert installation.ask(pod(labels=OPT_OUT), within=shop).code == 0


def test_our_own_pods_are_created_while_the_webhook_is_down(
    installation: Installation, kubernetes: Cluster, overlay: Overlay, shop: str
) -> None:
    (ours,) = [one for one in installation.manifests() if one["kind"] == "Deployment"]
    overlay(down=True)
    installation.refused(pod(), shop)
    template = ours["spec"]["template"]
    account = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", **template["metadata"]}}
    answer = installation.ask(account | {"spec": template["spec"]}, within=ours["metadata"]["namespace"])
    assert answer.code == 0, answer.stderr


def test_with_failure_policy_ignore_pods_are_admitted_without_a_sidecar_while_the_webhook_is_down(
    installation: Installation, overlay: Overlay, shop: str
) -> None:
    overlay("failure-policy-ignore", down=True)
    answer = eventually(lambda: without_sidecar(installation, shop), "a pod is admitted without a sidecar")
    assert answer.stderr == ""


def without_sidecar(installation: Installation, shop: str) -> Result | None:
    """The answer to a pod, if it is admitted as it was written."""
    answer = installation.ask(pod(), within=shop)
    return answer if answer.code == 0 and init_names(answer.object) == [] else None
