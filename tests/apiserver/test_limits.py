"""Namespaces that count and cap what pods ask for."""

import json
from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.objects import OPT_OUT, SIDECAR, container, init_names, pod
from tests.apiserver.processes import eventually
from webhook.injection import Rejected, inject
from webhook.settings import Settings

Create = Callable[..., Result]
AMOUNTS = {"cpu": "100m", "memory": "128Mi"}
FULL = {"requests": AMOUNTS, "limits": AMOUNTS}
HARD = {"requests.cpu": "2", "requests.memory": "2Gi", "limits.cpu": "4", "limits.memory": "4Gi"}


@pytest.fixture
def create(kubernetes: Cluster, shop: str) -> Create:
    """`kubectl create` in an opted-in namespace; a refusal is an answer like another."""

    def kubectl_create(thing: Object, *arguments: str) -> Result:
        command = ("create", "-n", shop, "-o", "json", "-f", "-", *arguments)
        return kubernetes.kubectl(*command, stdin=thing, check=False)

    return kubectl_create


def limit_range(**limits: dict[str, str]) -> Object:
    spec = {"limits": [{"type": "Container", **limits}]}
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "all"}, "spec": spec}


@pytest.fixture
def under_quota(create: Create, kubernetes: Cluster, shop: str) -> None:
    """A quota in effect: its controller, which does not run, would write this status."""
    create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"}, "spec": {"hard": HARD}})
    status = {"status": {"hard": HARD, "used": dict.fromkeys(HARD, "0")}}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    kubernetes.kubectl("patch", "quota", "all", "-n", shop, *patch)
    incomplete = pod(labels=OPT_OUT)
    eventually(lambda: "must specify" in create(incomplete, "--dry-run=server").stderr, "the quota counts")


def test_a_pod_that_says_what_it_needs_still_does_with_its_sidecar(create: Create, under_quota: None) -> None:
    stored = create(pod(containers=[container(resources=FULL)]))
    assert SIDECAR in init_names(stored.object), stored.stderr


def test_what_the_sidecar_asks_for_is_charged_to_the_quota(
    create: Create, under_quota: None, kubernetes: Cluster, shop: str
) -> None:
    create(pod(containers=[container(resources=FULL)]))
    used = kubernetes.get("quota", "all", "-n", shop)["status"]["used"]
    assert (used["requests.cpu"], used["requests.memory"]) == ("150m", "208Mi")


def test_a_limit_range_below_the_sidecar_is_met_by_annotation(create: Create) -> None:
    create(limit_range(max={"memory": "200Mi"}, default={"memory": "100Mi"}))
    eventually(lambda: create(pod(), "--dry-run=server").code != 0, "the LimitRange refuses the default")
    smaller = create(pod(annotations={"memory-limit": "200Mi"}))
    assert SIDECAR in init_names(smaller.object), smaller.stderr


def test_pod_level_resources_that_hold_the_sidecar_are_accepted(create: Create) -> None:
    amounts = {"cpu": "2", "memory": "1Gi"}
    stored = create(pod(resources={"requests": amounts, "limits": amounts}))
    assert SIDECAR in init_names(stored.object), stored.stderr


@pytest.mark.parametrize(
    ("kind", "amounts"),
    [
        ("requests", {"cpu": "20m", "memory": "1Gi"}),
        ("requests", {"cpu": "1", "memory": "32Mi"}),
    ],
)
def test_pod_level_requests_too_small_for_the_sidecar_are_refused_with_the_numbers(
    create: Create, kind: str, amounts: dict[str, str]
) -> None:
    refused = create(pod(resources={kind: amounts}))
    assert "denied the request" in refused.stderr
    too_small = "cpu" if amounts["cpu"] == "20m" else "memory"
    assert f"spec.resources.{kind}.{too_small} is {amounts[too_small]}" in refused.stderr


def test_pod_level_limits_below_the_limit_of_a_classic_sidecar_are_refused_with_the_numbers(create: Create) -> None:
    refused = create(pod(annotations={"sidecar": "classic"}, resources={"limits": {"cpu": "2", "memory": "100Mi"}}))
    assert "spec.resources.limits.memory is 100Mi" in refused.stderr
    assert "320Mi" in refused.stderr


def test_pod_level_limits_below_the_limit_of_a_native_sidecar_are_accepted(create: Create) -> None:
    """The API server does not hold the limits of init containers against those of the pod."""
    stored = create(pod(resources={"limits": {"cpu": "2", "memory": "100Mi"}}))
    assert SIDECAR in init_names(stored.object)


@pytest.mark.parametrize("asked", [{"requests": AMOUNTS}, {"limits": AMOUNTS}, {}])
@pytest.mark.parametrize("limits", [{"cpu": "2", "memory": "1Gi"}, {"memory": "1Gi"}, {"cpu": "20m", "memory": "32Mi"}])
def test_what_offline_commands_say_of_requests_that_are_not_written_is_what_the_cluster_says(
    create: Create, asked: Object, limits: Object
) -> None:
    thing = pod(containers=[container(resources=asked)], resources={"limits": limits})
    answer = create(thing)
    outcome = inject(json.dumps(thing).encode(), "privileged", Settings())
    if isinstance(outcome, Rejected):
        assert all(problem in answer.stderr for problem in outcome.problems)
    else:
        assert SIDECAR in init_names(answer.object), answer.stderr


def test_pod_level_resources_exactly_as_large_as_needed_are_accepted(create: Create) -> None:
    exact = {"cpu": "150m", "memory": "208Mi"}
    limits = {"cpu": "1", "memory": "320Mi"}
    app = container(resources={"requests": AMOUNTS})
    stored = create(pod(containers=[app], resources={"requests": exact, "limits": limits}))
    assert SIDECAR in init_names(stored.object), stored.stderr


def test_pod_level_resources_a_little_smaller_than_needed_are_refused_with_what_is_needed(create: Create) -> None:
    app = container(resources={"requests": AMOUNTS})
    refused = create(pod(containers=[app], resources={"requests": {"cpu": "149m", "memory": "208Mi"}}))
    assert "spec.resources.requests.cpu is 149m" in refused.stderr
    assert "150m" in refused.stderr
