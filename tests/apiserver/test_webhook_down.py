"""The webhook is down under the default `failurePolicy: Fail`: who is hurt, and who is not."""

from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_OUT, config_map, deployment, pod

pytestmark = pytest.mark.usefixtures("down")


@pytest.fixture(scope="module")
def down(installation: Installation) -> Iterator[None]:
    """Nobody serves, and the API server knows it."""
    with installation.overlay(down=True):
        installation.refused(pod())
        yield


def test_a_pod_of_an_opted_in_namespace_is_refused(installation: Installation, shop: str) -> None:
    answer = installation.ask(pod(), within=shop)
    assert 'failed calling webhook "inject.envoy-sidecar.io"' in answer.stderr


def test_a_pod_of_another_namespace_is_created(installation: Installation, new_namespace: Callable[..., str]) -> None:
    assert installation.ask(pod(), within=new_namespace({})).code == 0


def test_a_pod_that_opted_out_is_created(installation: Installation, shop: str) -> None:
    assert installation.ask(pod(labels=OPT_OUT), within=shop).code == 0


def test_a_deployment_is_created_for_better_times(installation: Installation, shop: str) -> None:
    assert installation.ask(deployment(pod()), within=shop).code == 0


def test_everything_else_is_created(installation: Installation, shop: str) -> None:
    assert installation.ask(config_map("any"), within=shop).code == 0


def test_our_own_pods_are_created(installation: Installation) -> None:
    for ours in (one for one in installation.manifests() if one["kind"] == "Deployment"):
        template = ours["spec"]["template"]
        own = pod("own") | {"metadata": {"name": "own", **template["metadata"]}, "spec": template["spec"]}
        answer = installation.ask(own, within=ours["metadata"]["namespace"])
        assert answer.code == 0, answer.stderr
