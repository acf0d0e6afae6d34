"""The component `opt-out-denied`: the opt-out label reaches the webhook, and is refused."""

from collections.abc import Iterator

import pytest

from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_OUT, SIDECAR, init_names, pod

pytestmark = pytest.mark.usefixtures("denied")


@pytest.fixture(scope="module")
def denied(installation: Installation) -> Iterator[None]:
    """The component acts."""
    with installation.overlay("opt-out-denied"):
        installation.refused(pod(labels=OPT_OUT))
        yield


def test_a_pod_that_opts_out_is_refused_with_our_message(installation: Installation, shop: str) -> None:
    answer = installation.ask(pod(labels=OPT_OUT), within=shop)
    assert "envoy-sidecar.io/inject=disabled is not allowed here" in answer.stderr
    assert "authors.optOut" in answer.stderr


def test_other_pods_are_injected_as_before(installation: Installation, shop: str) -> None:
    assert SIDECAR in init_names(installation.ask(pod(), within=shop).object)
