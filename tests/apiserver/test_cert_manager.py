"""`manifests/components/cert-manager` and `trust-manager` with the real ones: webhook and control plane are trusted,
when the CA is renewed too, and where `certs` had been before."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controlplane.xds.snapshot import Kind
from tests import needs
from tests.apiserver import binaries, cert_manager, control_plane
from tests.apiserver.account import SYSTEM, Account
from tests.apiserver.cert_manager import CERT_MANAGER, TRUST_MANAGER
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.discovery import run_pod, serving, token_of
from tests.apiserver.injector import CHECKOUT, manifests, replica, settings
from tests.apiserver.objects import SIDECAR, binding, init_names, namespace, pod, service_account
from tests.apiserver.processes import eventually, free_port
from tests.proxies import connected

CONTROLPLANE = "envoy-sidecar-controlplane"
CA, SERVING, MOUNTED = "envoy-sidecar-ca", "envoy-sidecar-webhook", "envoy-sidecar-webhook-tls"
SHOP = "shop"
TRUST_RULES: list[Object] = [
    {"apiGroups": ["trust.cert-manager.io"], "resources": ["bundles"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["trust.cert-manager.io"], "resources": ["bundles/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "patch", "watch", "delete"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
]
TRUST_ACCOUNT: list[Object] = [
    namespace("cert-manager", {}),
    {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "trust-manager", "namespace": "cert-manager"},
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "trust-manager"},
        "rules": TRUST_RULES,
    },
    binding("trust-manager", "system:serviceaccount:cert-manager:trust-manager"),
]
REGISTRATIONS = (
    "mutatingwebhookconfiguration/envoy-sidecar-webhook",
    "validatingwebhookconfiguration/envoy-sidecar-advisor",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane of its own, the component in it, and a webhook that serves what it got first."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # builds of minutes must be seen
        for program in ("kube-apiserver", "kubectl"):
            binaries.kubernetes(program)
        for manager in (CERT_MANAGER, TRUST_MANAGER):
            cert_manager.release(manager)
    directory = tmp_path_factory.mktemp("cert-manager")
    with control_plane.started(directory) as started, ExitStack() as stack:
        stack.enter_context(cert_manager.managing(started, CERT_MANAGER, started.kubeconfig))
        stack.enter_context(trust_managing(started))
        objects = manifests(started, directory, ["cert-manager", "trust-manager"])
        started.kubectl("apply", "-f", "-", stdin=left_by_certs(directory))
        started.kubectl("apply", "--validate=strict", "-f", "-", stdin=objects)
        eventually(lambda: ready(started), f"certificates, see {directory / 'cert-manager.log'}")
        (directory / "settings.yaml").write_text(settings(objects))
        serving = stack.enter_context(replica(directory / "webhook.log", directory / "settings.yaml", pair(started)))
        started.kubectl("apply", "-f", "-", stdin=called_here(objects, serving.port))
        started.kubectl("apply", "-f", "-", stdin=[namespace(SHOP), service_account(SHOP)])
        yield started


@contextmanager
def trust_managing(cluster: Cluster) -> Iterator[None]:
    """trust-manager under the account of its chart, with the rights that it has from there."""
    cluster.kubectl("create", "-f", "-", stdin=[namespace(SYSTEM, {}), *TRUST_ACCOUNT])
    secrets = ("create", "role", "trust-manager", "-n", SYSTEM, "--verb=get,list,watch", "--resource=secrets")
    cluster.kubectl(*secrets)
    bound = ("create", "rolebinding", "trust-manager", "-n", SYSTEM, "--role=trust-manager")
    cluster.kubectl(*bound, "--serviceaccount=cert-manager:trust-manager")
    token = cluster.kubectl("create", "token", "trust-manager", "-n", "cert-manager").stdout.strip()
    webhook = cluster.directory / "trust-manager"
    subprocess.run([sys.executable, "-m", "certs", "dev", str(webhook)], cwd=CHECKOUT, check=True, capture_output=True)
    options = ["--leader-elect=false", "--metrics-port=0", "--readiness-probe-port=0", f"--trust-namespace={SYSTEM}"]
    options += [f"--webhook-certificate-dir={webhook}", "--webhook-host=127.0.0.1", f"--webhook-port={free_port()}"]
    account = Account(cluster, "trust-manager", token)
    with cert_manager.managing(cluster, TRUST_MANAGER, account.kubeconfig, options):
        yield


def left_by_certs(directory: Path) -> Object:
    """The Secret of a serving certificate, as `certs` makes and fills it."""
    folder = directory / "former"
    subprocess.run([sys.executable, "-m", "certs", "dev", str(folder)], cwd=CHECKOUT, check=True, capture_output=True)
    data = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": MOUNTED, "namespace": SYSTEM}, "data": data}


def called_here(objects: list[Object], port: int) -> list[Object]:
    """The registrations and the Service, such that the API server finds that port of loopback under our name."""
    changed = []
    for one in objects:
        if "webhooks" in one:
            for webhook in one["webhooks"]:
                webhook["clientConfig"]["service"]["port"] = port
            changed.append(one)
        elif (one["kind"], one["metadata"]["name"]) == ("Service", SERVING):
            changed.append(one | {"spec": {"type": "ExternalName", "externalName": "localhost"}})
    return changed


def ready(cluster: Cluster) -> bool:
    """Whether everything is issued, and trusted in every registration."""
    trusted = secret(cluster, MOUNTED).get("ca.crt")
    issued = secret(cluster, f"{CONTROLPLANE}-tls").get("tls.crt")
    return bool(trusted and issued) and all(bundles(cluster, one) == {trusted} for one in REGISTRATIONS)


def secret(cluster: Cluster, name: str) -> dict[str, str]:
    answer = cluster.kubectl("get", "secret", name, "-n", SYSTEM, "-o", "json", check=False)
    data: dict[str, str] = answer.object.get("data", {}) if answer.code == 0 else {}
    return data


def bundles(cluster: Cluster, registration: str) -> set[str]:
    return {webhook["clientConfig"].get("caBundle", "") for webhook in cluster.get(registration)["webhooks"]}


def pair(cluster: Cluster, of: str = MOUNTED) -> Path:
    """What a server's pod would have mounted now; and the CA beside it."""
    folder = cluster.directory / of
    folder.mkdir()
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (folder / name).write_bytes(base64.b64decode(secret(cluster, of)[name]))
    return folder


def renew(cluster: Cluster, certificate: str) -> None:
    """As `cmctl renew` does."""
    issuing = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by a test"}
    patch = json.dumps({"status": {"conditions": [issuing]}})
    where = ("certificate", certificate, "-n", SYSTEM)
    cluster.kubectl("patch", *where, "--subresource=status", "--type=merge", "-p", patch)


def injects(cluster: Cluster) -> bool:
    answer = cluster.kubectl(
        "create", "-n", SHOP, "--dry-run=server", "-o", "json", "-f", "-", stdin=pod(), check=False
    )
    return answer.code == 0 and SIDECAR in init_names(answer.object)


def test_pods_are_injected(cluster: Cluster) -> None:
    eventually(lambda: injects(cluster), "pods come out with a sidecar")


def test_it_takes_the_secret_over_that_certs_had_filled(cluster: Cluster) -> None:
    assert cluster.get("secret", MOUNTED, "-n", SYSTEM)["type"] == "Opaque"
    assert set(secret(cluster, MOUNTED)) == {"ca.crt", "tls.crt", "tls.key"}


def test_a_renewed_ca_and_the_former_vouch_for_the_same(cluster: Cluster) -> None:
    eventually(lambda: injects(cluster), "pods come out with a sidecar")
    ca, former = secret(cluster, CA), secret(cluster, MOUNTED)
    renew(cluster, CA)
    eventually(lambda: secret(cluster, CA)["tls.crt"] != ca["tls.crt"], "there is another CA")
    renew(cluster, SERVING)
    eventually(lambda: secret(cluster, MOUNTED)["ca.crt"] != former["ca.crt"], "there is another certificate")
    eventually(lambda: ready(cluster), "the former CA is published no more")
    # No kubelet has brought the new pair yet: the webhook serves the former one,
    assert all(injects(cluster) for _ in range(20))
    # and an API server that has not seen the new CA yet trusts the new certificate.
    verify(cluster.directory, ca=former["ca.crt"], leaf=secret(cluster, MOUNTED)["tls.crt"])


def published(cluster: Cluster, where: str) -> str:
    """What sidecars of that namespace trust, as PEM; empty if they trust nobody."""
    answer = cluster.kubectl("get", "configmap", CA, "-n", where, "-o", "jsonpath={.data.ca\\.crt}", check=False)
    return answer.stdout.strip()


def test_the_ca_is_published_in_namespaces_that_are_opted_in_and_in_no_other(cluster: Cluster) -> None:
    cluster.kubectl("create", "-f", "-", stdin=[namespace("late"), namespace("another", {})])
    for where in (SHOP, "late"):
        eventually(lambda where=where: published(cluster, where) == current(cluster), where)  # type: ignore[misc]
    assert not published(cluster, "another")


def current(cluster: Cluster) -> str:
    """The CA, as PEM."""
    return base64.b64decode(secret(cluster, CA)["tls.crt"]).decode().strip()


def test_a_sidecar_that_has_the_ca_trusts_the_control_plane(cluster: Cluster) -> None:
    tls = pair(cluster, f"{CONTROLPLANE}-tls")
    run_pod(cluster, SHOP)
    token, name = token_of(cluster, SHOP, "web-1"), f"{CONTROLPLANE}.{SYSTEM}.svc"
    eventually(lambda: published(cluster, SHOP), f"the CA is published, see {cluster.directory / 'trust-manager.log'}")
    trusted = published(cluster, SHOP).encode()

    async def story(port: int) -> None:
        async with connected(port, f"web-1.{SHOP}", trusted, token, name=name) as proxy:
            await proxy.ask(Kind.CLUSTER)
            async with asyncio.timeout(10), proxy.heard:
                await proxy.heard.wait_for(lambda: bool(proxy.responses))

    with serving(cluster.kubeconfig, cluster.directory / "plane", tls) as plane:
        asyncio.run(story(plane.port))


def verify(directory: Path, ca: str, leaf: str) -> None:
    """Fails unless OpenSSL, at its strictest, trusts the one by the other."""
    openssl = needs.binary("openssl", "apt install openssl")
    for name, text in (("ca.crt", ca), ("leaf.crt", leaf)):
        (directory / name).write_bytes(base64.b64decode(text))
    command = [str(openssl), "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-CAfile", str(directory / "ca.crt"), str(directory / "leaf.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
