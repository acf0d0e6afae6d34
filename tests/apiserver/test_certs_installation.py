"""`manifests/base` as it is, in a cluster of its own: `certs` with the token of its account makes it work, and applying
the manifests again, in whatever way, takes nothing of that away."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.apiserver import binaries, control_plane
from tests.apiserver.account import SYSTEM, Account, sign_in
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import CHECKOUT, MANIFESTS
from tests.apiserver.processes import eventually

BASE = str(MANIFESTS / "base")
REGISTRATIONS = (
    "mutatingwebhookconfiguration/envoy-sidecar-webhook",
    "validatingwebhookconfiguration/envoy-sidecar-advisor",
)
EACH = pytest.mark.parametrize("registration", REGISTRATIONS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane of its own, and `manifests/base` in it."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for program in ("kube-apiserver", "kubectl", "kube-controller-manager"):
            binaries.kubernetes(program)
    with control_plane.started(tmp_path_factory.mktemp("installation")) as started:
        started.kubectl("apply", "-k", BASE)
        yield started


@pytest.fixture(scope="module")
def ensured(cluster: Cluster) -> "subprocess.CompletedProcess[str]":
    """How the first `certs ensure` ended."""
    return certs(sign_in(cluster, "envoy-sidecar-certs"), "ensure")


def certs(account: Account, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "certs", *arguments, "--kubeconfig", str(account.kubeconfig)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)


def bundles(registration: Object) -> set[str]:
    """The trust of each entry; one empty text where there is none."""
    return {webhook["clientConfig"].get("caBundle", "") for webhook in registration["webhooks"]}


def test_its_rights_are_all_that_it_needs(ensured: "subprocess.CompletedProcess[str]") -> None:
    assert (ensured.returncode, ensured.stderr) == (0, "")
    assert "failed" not in ensured.stdout


@pytest.mark.usefixtures("ensured")
def test_the_webhook_finds_what_it_mounts(cluster: Cluster) -> None:
    deployment = cluster.get("deployment", "envoy-sidecar-webhook", "-n", SYSTEM)
    (mounted,) = [it["secret"] for it in deployment["spec"]["template"]["spec"]["volumes"] if "secret" in it]
    data = cluster.get("secret", mounted["secretName"], "-n", SYSTEM)["data"]
    assert all(data[item["key"]] for item in mounted["items"])


@EACH
@pytest.mark.usefixtures("ensured")
def test_every_entry_trusts_the_same_ca(cluster: Cluster, registration: str) -> None:
    (bundle,) = bundles(cluster.get(registration))
    assert bundle


@EACH
@pytest.mark.parametrize("way", [(), ("--server-side", "--force-conflicts", "--field-manager=gitops")], ids=str)
@pytest.mark.usefixtures("ensured")
def test_applying_changed_manifests_keeps_the_trust(cluster: Cluster, registration: str, way: tuple[str, ...]) -> None:
    former = cluster.get(registration)
    rendered = yaml.safe_load_all(cluster.kubectl("kustomize", BASE).stdout)
    (changed,) = [it for it in rendered if it["kind"] == former["kind"]]
    for webhook in changed["webhooks"]:
        webhook["timeoutSeconds"] = 3 if way else 4
    cluster.kubectl("apply", "-f", "-", *way, stdin=changed)
    now = cluster.get(registration)
    assert now["metadata"]["generation"] == former["metadata"]["generation"] + 1
    assert bundles(now) == bundles(former) != {""}


def test_the_type_checker_of_kubernetes_finds_nothing_in_a_policy(cluster: Cluster) -> None:
    def statuses() -> list[Object] | None:
        found = [it.get("status", {}) for it in cluster.get("validatingadmissionpolicies")["items"]]
        return found if all("typeChecking" in status for status in found) else None

    with control_plane.controller_manager(cluster, ["validatingadmissionpolicy-status-controller"]):
        checked = eventually(statuses, "every policy has been checked")
    assert [status["typeChecking"] for status in checked] == [{}] * len(checked)
