"""A rollout of the webhook itself: a replica ends while pods are created, and nobody notices."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.apiserver.cluster import Cluster
from tests.apiserver.creator import Creator, creating
from tests.apiserver.injector import Injector, Replica, injecting, settings
from tests.apiserver.installation import Installation
from tests.apiserver.objects import SIDECAR, generated, init_names, pod
from tests.apiserver.processes import eventually

CLIENTS = 4


@pytest.fixture
def rolled_out(installation: Installation, directory: Path) -> Iterator[Injector]:
    """Two replicas of their own, which take seconds, not half a minute, to end."""
    base = installation.manifests()
    hasty = yaml.safe_load(settings(base)) | {"server": {"shutdownGraceSeconds": 2, "drainSeconds": 5}}
    with injecting(directory / "rollout", yaml.safe_dump(hasty), replicas=2) as webhook:
        installation.apply(base, webhook)
        eventually(lambda: installation.injects() and webhook.requests(), "the new replicas are called")
        yield webhook
        installation.apply(base, installation.webhook)
        before = installation.webhook.requests()
        eventually(
            lambda: installation.injects() and installation.webhook.requests() > before, "the old ones are again"
        )


def test_a_replica_that_ends_loses_no_request(kubernetes: Cluster, rolled_out: Injector, shop: str) -> None:
    leaving = rolled_out.replicas[0]

    def create_until_it_has_ended(creator: Creator) -> list[int]:
        answers = []
        while leaving.process.poll() is None:
            answers.append(creator.create(generated(pod(labels={"app": "cart"}), "cart-")))
        return answers

    with creating(kubernetes, shop) as creator, ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(create_until_it_has_ended, creator) for _ in range(CLIENTS)]
        eventually(lambda: called(leaving), "it has work to do")
        os.kill(leaving.process.pid, signal.SIGTERM)
        answers = [answer for one in running for answer in one.result()]
    pods = kubernetes.get("pods", "-n", shop)["items"]
    assert set(answers) == {201}
    assert all(SIDECAR in init_names(one) for one in pods)
    assert leaving.process.returncode == 0


def called(replica: Replica) -> bool:
    return replica.requests() > 10
