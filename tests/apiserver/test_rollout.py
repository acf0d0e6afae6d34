"""A rollout of the webhook itself, and the death of a replica, while 1,000 pods are created."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.apiserver.admissions import MEASURED
from tests.apiserver.balancer import balanced
from tests.apiserver.cluster import Cluster
from tests.apiserver.creator import Creator, creating
from tests.apiserver.injector import CHECKOUT, Injector, Replica, replica, settings
from tests.apiserver.installation import Installation
from tests.apiserver.objects import SIDECAR, generated, init_names, pod
from tests.apiserver.processes import eventually, free_port

PODS, CLIENTS, REPLICAS = 1_000, 8, 2
AFTERWARDS_SECONDS = 5  # in which the API server may still try connections that a killed process has left


@dataclass(slots=True)
class Fleet:
    """Replicas that come and go behind one address; each has a port of its own from the beginning."""

    directory: Path
    settings: Path
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(2 * REPLICAS)])
    running: list[Replica] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def certificate(self) -> Path:
        return self.directory / "tls"

    def start(self) -> Replica:
        """One more, which serves."""
        number = len(self.running)
        log = self.directory / f"webhook-{number}.log"
        begun = replica(log, self.settings, self.certificate, self.ports[number])
        self.running.append(self.stack.enter_context(begun))
        return self.running[-1]

    def injector(self, port: int) -> Injector:
        return Injector(port, tuple(self.running), self.certificate)


@pytest.fixture
def fleet(installation: Installation, directory: Path) -> Iterator[Fleet]:
    """Two replicas, called by the API server; they take seconds, not half a minute, to end."""
    base = installation.manifests()
    hasty = yaml.safe_load(settings(base)) | {"server": {"shutdownGraceSeconds": 2, "drainSeconds": 5}}
    inside = directory / f"fleet-{time.monotonic_ns()}"
    inside.mkdir()
    (inside / "settings.yaml").write_text(yaml.safe_dump(hasty))
    subprocess.run([sys.executable, "-m", "certs", "dev", str(inside / "tls")], cwd=CHECKOUT, check=True)
    one = Fleet(inside, inside / "settings.yaml")
    with one.stack, balanced(inside / "balancer.log", one.ports) as port:
        for _ in range(REPLICAS):
            one.start()
        installation.apply(base, one.injector(port))
        eventually(lambda: installation.injects() and one.injector(port).requests(), "the new replicas are called")
        yield one
        installation.apply(base, installation.webhook)
        before = installation.webhook.requests()
        eventually(
            lambda: installation.injects() and installation.webhook.requests() > before, "the old ones are again"
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One creation of a pod: the status of its answer, and between which moments it was under way."""

    status: int
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Creations:
    """What became of each pod that was to be created: its attempts, the last of them a success or given up."""

    of_pods: list[list[Attempt]] = field(default_factory=list)

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for attempts in self.of_pods for attempt in attempts]


@contextmanager
def creating_pods(kubernetes: Cluster, namespace: str, tries: int = 1) -> Iterator[Creations]:
    """Creates pods, CLIENTS at a time, each tried so often at most: PODS, or more until the block has ended.

    Between two tries passes what a controller's queue takes (client-go, DefaultTypedControllerRateLimiter).
    """
    one, made, over = generated(pod(labels={"app": "cart"}), "cart-"), Creations(), threading.Event()

    def create(creator: Creator) -> None:
        while len(made.of_pods) < PODS or not over.is_set():
            attempts: list[Attempt] = []
            made.of_pods.append(attempts)
            while len(attempts) < tries and not (attempts and attempts[-1].status == 201):
                time.sleep(0.005 * 2 ** (len(attempts) - 1) if attempts else 0)
                began = time.monotonic()
                attempts.append(Attempt(creator.create(one), began, time.monotonic()))

    with creating(kubernetes, namespace) as creator, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(create, creator) for _ in range(CLIENTS)]
        try:
            yield made
        finally:
            over.set()
        for client in clients:
            client.result()


def injected(kubernetes: Cluster, namespace: str) -> int:
    return sum(SIDECAR in init_names(one) for one in kubernetes.get("pods", "-n", namespace)["items"])


def busy(one: Replica) -> None:
    """Waits until it has work to do."""
    before = one.requests()
    eventually(lambda: one.requests() > before + 10, "it has work to do")


def test_a_rolling_restart_of_both_replicas_loses_no_request(
    kubernetes: Cluster, fleet: Fleet, shop: str, record_property: Callable[[str, object], None]
) -> None:
    with creating_pods(kubernetes, shop) as made:
        for leaving in tuple(fleet.running):
            busy(leaving)
            fleet.start()
            leaving.process.send_signal(signal.SIGTERM)
            assert leaving.process.wait(30) == 0
    lost = [attempt for attempt in made.attempts if attempt.status != 201]
    record_property(MEASURED, f"rolling restart of both replicas: {len(lost)} of {len(made.of_pods)} creations lost")
    assert not lost
    assert injected(kubernetes, shop) == len(made.of_pods)


def test_a_replica_that_is_killed_loses_what_was_in_flight_and_nothing_else(
    kubernetes: Cluster, fleet: Fleet, shop: str, record_property: Callable[[str, object], None]
) -> None:
    with creating_pods(kubernetes, shop) as made:
        busy(fleet.running[0])
        killed = time.monotonic()
        fleet.running[0].process.kill()
    lost = [attempt for attempt in made.attempts if attempt.status != 201]
    record_property(MEASURED, f"kill -9 of one of two replicas: {len(lost)} of {len(made.of_pods)} creations lost")
    assert len(lost) <= CLIENTS
    late = [(one.status, one.began - killed, one.ended - killed) for one in lost]
    assert all(began <= AFTERWARDS_SECONDS and ended >= 0 for _, began, ended in late), late
    assert injected(kubernetes, shop) == len(made.of_pods) - len(lost)


def test_a_client_that_tries_again_as_controllers_do_notices_nothing_of_a_replica_that_is_killed(
    kubernetes: Cluster, fleet: Fleet, shop: str
) -> None:
    with creating_pods(kubernetes, shop, tries=2) as made:
        busy(fleet.running[0])
        fleet.running[0].process.kill()
    assert {attempts[-1].status for attempts in made.of_pods} == {201}
    assert injected(kubernetes, shop) == len(made.of_pods)
