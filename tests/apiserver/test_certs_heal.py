"""Pods are created while `certs` heals what was lost: by the real API server, which calls a real webhook."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from tests.apiserver.account import SYSTEM
from tests.apiserver.admissions import MEASURED
from tests.apiserver.creator import Creator, creating
from tests.apiserver.damage import delete, delete_and_empty, empty_bundles, replace_bundles, spoil
from tests.apiserver.injector import Replica, manifests, replica, settings
from tests.apiserver.keeping import CA, WEBHOOK, Keeping, installed, mounting
from tests.apiserver.objects import namespace, pod, service_account
from tests.apiserver.processes import eventually

SHOP = "shop"
QUICK = ("--period-seconds", "1", "--publication-delay-seconds", "2")
PICKED_UP_SECONDS = 3  # an API server sees a new caBundle at once; on a busy machine that takes a while
CREATED = 201


@dataclass(frozen=True, slots=True)
class Up:
    """An installation that works."""

    keeping: Keeping
    webhook: Replica
    creator: Creator

    def admits(self) -> bool:
        return self.creator.create(pod()) == CREATED

    @contextmanager
    def asking(self) -> Iterator[list[tuple[float, bool]]]:
        """Asks for one pod after the other in the block: when each was asked for, and whether it is admitted."""
        answers: list[tuple[float, bool]] = []
        end = threading.Event()

        def ask() -> None:
            while not end.is_set():
                answers.append((time.monotonic(), self.admits()))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield answers
        finally:
            end.set()
            thread.join()

    def served(self) -> str:
        """The certificate that a new connection to the webhook gets, as PEM."""
        return ssl.get_server_certificate(("127.0.0.1", self.webhook.port))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Up]:
    capture, directory = pytestconfig.pluginmanager.getplugin("capturemanager"), tmp_path_factory.mktemp("heal")
    with ExitStack() as stack:
        with capture.global_and_fixture_disabled():
            keeping = stack.enter_context(installed(directory))
        keeping.cluster.kubectl("create", "-f", "-", stdin=[namespace(SHOP), service_account(SHOP)])
        certs = stack.enter_context(keeping.running("certs", *QUICK))
        tls, file = directory / "tls", directory / "settings.yaml"
        stack.enter_context(mounting(keeping, f"/api/v1/namespaces/{SYSTEM}/secrets/{WEBHOOK}", tls))
        file.write_text(settings(manifests(keeping.cluster, directory)))
        eventually(lambda: (tls / "tls.key").exists() and certs.ready(), f"all is well, see {certs.log}")
        webhook = stack.enter_context(replica(directory / "webhook.log", file, tls))
        keeping.call_webhook_on(webhook.port)
        creator = stack.enter_context(creating(keeping.cluster, SHOP))
        creator.path += "?dryRun=All"
        yield Up(keeping, webhook, creator)


@pytest.fixture
def works(up: Up) -> Up:
    eventually(lambda: up.keeping.well() and up.admits(), "pods are admitted")
    return up


LOST: dict[str, Callable[[Keeping], None]] = {
    "the CA is deleted": lambda it: delete(it, CA),
    "the CA is garbage": lambda it: spoil(it, CA),
    "the certificate is deleted": lambda it: delete(it, WEBHOOK),
    "the certificate is garbage": lambda it: spoil(it, WEBHOOK),
    "both are deleted": lambda it: delete(it, CA, WEBHOOK),
}


@pytest.mark.parametrize("do", LOST.values(), ids=LOST)
def test_no_admission_fails_while_what_is_served_is_trusted(works: Up, do: Callable[[Keeping], None]) -> None:
    """Whatever is lost of the Secrets, the webhook goes on with what it has until it gets another one."""
    former, reviews = works.served(), works.webhook.requests()
    with works.asking() as answers:
        do(works.keeping)
        eventually(lambda: works.served() != former and works.keeping.well(), "another certificate is served")
        healed = len(answers)
        eventually(lambda: len(answers) > healed + 20, "pods are asked for with it")
    assert [at for at, admitted in answers if not admitted] == []
    assert works.webhook.requests() - reviews >= len(answers)


UNTRUSTED: dict[str, Callable[[Keeping], None]] = {
    "the caBundles are emptied": empty_bundles,
    "the caBundles hold another CA": replace_bundles,
    "the certificate is deleted and the caBundles are emptied": delete_and_empty,
}


@pytest.mark.parametrize("do", UNTRUSTED.values(), ids=UNTRUSTED)
def test_admissions_fail_for_no_longer_than_the_heal(
    works: Up, do: Callable[[Keeping], None], record_property: Callable[[str, object], None]
) -> None:
    with works.asking() as answers:
        began = time.monotonic()
        do(works.keeping)
        eventually(works.keeping.well, "it is healed")
        healed = time.monotonic()
        eventually(lambda: answers[-1][0] > healed + PICKED_UP_SECONDS, "pods are asked for afterwards")
    failed = [at for at, admitted in answers if not admitted]
    last = max(failed, default=began)
    record_property(
        MEASURED, f"healed {healed - began:.1f} s later, the last of {len(failed)} failures {last - began:.1f} s later"
    )
    assert all(at < healed + PICKED_UP_SECONDS for at in failed)
