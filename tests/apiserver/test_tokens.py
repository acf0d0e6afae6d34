"""Whose proxy calls: tokens that the real API server made, and what it says of them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from time import time

import grpc
import pytest

from controlplane import apiserver
from controlplane.discovery import AUDIENCE
from controlplane.kube import Kube
from controlplane.xds.snapshot import Kind
from tests import tokens
from tests.apiserver.account import sign_in
from tests.apiserver.cluster import Cluster
from tests.apiserver.discovery import NODE, ControlPlane, run_pod, serving, signed_again, token_of
from tests.apiserver.installation import Installation
from tests.proxies import call, channel, connected, refusal

ACCOUNT = "envoy-sidecar-controlplane"
EXTRA = "authentication.kubernetes.io"
Make = Callable[[Cluster, str], str]  # a token of the pod web-1 in that namespace, or what pretends to be one


@pytest.fixture(scope="module")
def kubeconfig(installation: Installation) -> Path:
    """Of the account that our manifests give it."""
    return sign_in(installation.cluster, ACCOUNT).kubeconfig


@pytest.fixture
def ours(kubeconfig: Path) -> Kube:
    return Kube(apiserver.connect(str(kubeconfig)))


@pytest.fixture(scope="module")
def plane(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with serving(kubeconfig, tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def place(kubernetes: Cluster, new_namespace: Callable[..., str]) -> str:
    """A namespace with a pod web-1."""
    where = new_namespace({})
    run_pod(kubernetes, where)
    return where


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


def of_the_pod(cluster: Cluster, where: str) -> str:
    return token_of(cluster, where, "web-1")


def for_somebody_else(cluster: Cluster, where: str) -> str:
    return token_of(cluster, where, "web-1", audience="somebody-else")


def of_a_service_account(cluster: Cluster, where: str) -> str:
    return token_of(cluster, where)


def of_a_pod_that_is_gone(cluster: Cluster, where: str) -> str:
    token = of_the_pod(cluster, where)
    cluster.kubectl("delete", "pod", "web-1", "-n", where, "--force", "--grace-period=0")
    return token


def of_a_pod_that_had_the_name_before(cluster: Cluster, where: str) -> str:
    token = of_a_pod_that_is_gone(cluster, where)
    run_pod(cluster, where)
    return token


def expired(cluster: Cluster, where: str) -> str:
    now = int(time())
    return signed_again(cluster, of_the_pod(cluster, where), iat=now - 7200, nbf=now - 7200, exp=now - 3600)


def altered(cluster: Cluster, where: str) -> str:
    header, _, signature = of_the_pod(cluster, where).split(".")
    _, payload, _ = tokens.token(f"{where}/web-1").split(".")
    return f"{header}.{payload}.{signature}"


def signed_by_nobody(_: Cluster, where: str) -> str:
    return tokens.token(f"{where}/web-1")


def garbage(_: Cluster, __: str) -> str:
    return "a.b.c"


def test_of_a_pods_token_the_api_server_says_which_pod_on_which_node(
    kubernetes: Cluster, ours: Kube, place: str
) -> None:
    status = ours.review(of_the_pod(kubernetes, place), AUDIENCE)
    assert (status["authenticated"], status["audiences"]) == (True, [AUDIENCE])
    assert status["user"]["username"] == f"system:serviceaccount:{place}:default"
    stored = kubernetes.get("pod", "web-1", "-n", place)
    extra = status["user"]["extra"]
    assert extra[f"{EXTRA}/pod-name"] == ["web-1"]
    assert extra[f"{EXTRA}/pod-uid"] == [stored["metadata"]["uid"]]
    assert extra[f"{EXTRA}/node-name"] == [NODE]


def test_a_token_that_was_signed_again_unchanged_is_as_good(kubernetes: Cluster, ours: Kube, place: str) -> None:
    """Or the tests of expired ones would prove nothing."""
    assert ours.review(signed_again(kubernetes, of_the_pod(kubernetes, place)), AUDIENCE)["authenticated"] is True


@pytest.mark.parametrize(
    "make",
    [
        for_somebody_else,
        of_a_pod_that_is_gone,
        of_a_pod_that_had_the_name_before,
        expired,
        altered,
        signed_by_nobody,
        garbage,
    ],
)
def test_the_api_server_does_not_vouch_for_another(kubernetes: Cluster, ours: Kube, place: str, make: Make) -> None:
    assert ours.review(make(kubernetes, place), AUDIENCE).get("authenticated") is not True


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (for_somebody_else, "audience"),
        (of_a_service_account, "no_pod"),
        (of_a_pod_that_is_gone, "invalid"),
        (of_a_pod_that_had_the_name_before, "invalid"),
        (expired, "expired"),
        (altered, "invalid"),
        (signed_by_nobody, "invalid"),
        (garbage, "malformed"),
    ],
)
def test_a_proxy_with_another_token_is_refused_and_counted(
    kubernetes: Cluster, plane: ControlPlane, place: str, make: Make, reason: str
) -> None:
    token, before = make(kubernetes, place), plane.counted("refusals_total", reason=reason)

    async def story() -> None:
        async with channel(plane.port, plane.ca) as connection:
            assert await refusal(call(connection, token)) == grpc.StatusCode.UNAUTHENTICATED

    run(story())
    assert plane.counted("refusals_total", reason=reason) == before + 1


@pytest.mark.parametrize("node", ["web-2.{where}", "web-1.kube-system", "web-1", ""])
def test_a_proxy_that_says_it_is_another_pod_is_refused_and_counted(
    kubernetes: Cluster, plane: ControlPlane, place: str, node: str
) -> None:
    token, before = of_the_pod(kubernetes, place), plane.counted("refusals_total", reason="other_pod")

    async def story() -> None:
        async with connected(plane.port, node.format(where=place), plane.ca, token) as proxy:
            await proxy.ask(Kind.CLUSTER)
            assert await proxy.call.code() == grpc.StatusCode.PERMISSION_DENIED
            assert not proxy.responses

    run(story())
    assert plane.counted("refusals_total", reason="other_pod") == before + 1
