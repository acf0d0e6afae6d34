"""A rollout storm: pods as fast as the API server takes them, two replicas of ours."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.apiserver.admissions import MEASURED, durations
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.creator import creating
from tests.apiserver.injector import Injector
from tests.apiserver.installation import Installation
from tests.apiserver.objects import SIDECAR, generated, init_names, pod

WEBHOOK = "inject.envoy-sidecar.io"
PODS = 2_000
CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Storm:
    """What became of it."""

    answers: list[int]
    pods: list[Object]
    calls: list[int]
    measured: list[str]


@pytest.fixture(scope="module")
def storm(
    kubernetes: Cluster,
    installation: Installation,
    webhook: Injector,
    new_namespace: Callable[..., str],
) -> Storm:
    """Creates the pods of one workload, named as a ReplicaSet names them."""
    shop, one = new_namespace(), generated(pod(labels={"app": "cart"}), "cart-")
    calls = [replica.requests() for replica in webhook.replicas]
    before, cpu, began = durations(kubernetes, WEBHOOK), webhook.cpu_seconds(), time.monotonic()
    with creating(kubernetes, shop) as creator, ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(creator.create, [one] * PODS))
    rate, seen = PODS / (time.monotonic() - began), durations(kubernetes, WEBHOOK) - before
    cost = (webhook.cpu_seconds() - cpu) / seen.calls
    calls = [replica.requests() - count for replica, count in zip(webhook.replicas, calls, strict=True)]
    measured = [
        f"{PODS} pods by {CLIENTS} clients at {rate:.0f}/s, {seen.calls} calls to {len(calls)} replicas",
        f"the API server's own duration of a call: p50 {ms(seen.quantile(0.5))}, p99 {ms(seen.quantile(0.99))}",
        f"CPU of the webhook per call: {ms(cost)}",
    ]
    return Storm(answers, kubernetes.get("pods", "-n", shop)["items"], calls, measured)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def test_every_pod_is_created(storm: Storm, record_property: Callable[[str, object], None]) -> None:
    for line in storm.measured:
        record_property(MEASURED, line)
    assert storm.answers == [201] * PODS


def test_every_pod_comes_out_injected(storm: Storm) -> None:
    assert sum(SIDECAR in init_names(one) for one in storm.pods) == PODS


def test_every_replica_has_its_share(storm: Storm) -> None:
    assert min(storm.calls) > 0
