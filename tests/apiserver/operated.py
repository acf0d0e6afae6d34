"""An installation as an operator has it, for the tests of docs/operations.md.

In its cluster are our manifests as they are, but for the port that the API server calls. Our processes are real, have
the tokens of their ServiceAccounts, and run beside a node that only seems to run their pods.
"""

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from tests.apiserver import binaries, control_plane, node
from tests.apiserver.balancer import balanced
from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.control_plane import controller_manager, kubeconfig
from tests.apiserver.injector import CHECKOUT, MANIFESTS, replica
from tests.apiserver.objects import SIDECAR, init_names, namespace, pod
from tests.apiserver.processes import eventually, free_port, running

SYSTEM, SHOP = "envoy-sidecar-system", "shop"
WEBHOOK, CERTS, CONTROLPLANE = "envoy-sidecar-webhook", "envoy-sidecar-certs", "envoy-sidecar-controlplane"
TLS, XDS_TLS, CA = "envoy-sidecar-webhook-tls", "envoy-sidecar-controlplane-tls", "envoy-sidecar-ca-key"
CONTROLLERS = (
    *control_plane.CONTROLLERS,
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
REPLICAS = 2
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Process:
    """One process of ours, and where it serves metrics."""

    process: "subprocess.Popen[bytes]"
    metrics_port: int


@dataclass(slots=True)
class Operated:
    """A cluster with an installation in it, a folder like a checkout, and somebody to type commands there."""

    cluster: Cluster
    webhooks: list[Process] = field(default_factory=list)
    writers: list[Process] = field(default_factory=list)  # certs and the control plane
    xds_port: int = field(default_factory=free_port)  # on loopback, where one of two replicas serves proxies

    @property
    def checkout(self) -> Path:
        return self.cluster.directory / "checkout"

    @property
    def mine(self) -> Path:
        """The reader's own overlay."""
        return self.checkout / "manifests" / "overlays" / "mine"

    def type(self, commands: str) -> Result:
        """What a shell prints that stops at the first command that fails."""
        path = [Path(sys.executable).parent, binaries.kubernetes("kubectl").parent, os.environ["PATH"]]
        environment = {
            "PATH": ":".join(map(str, path)),
            "PYTHONPATH": str(CHECKOUT),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "HOME": str(self.checkout),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Result(done.stdout, done.stderr, done.returncode)

    def hanging(self) -> AbstractContextManager[None]:
        """No replica of the webhook answers, and none refuses a connection either."""
        return _paused(self.webhooks)

    def without_certs(self) -> AbstractContextManager[None]:
        """Certs does nothing."""
        return _paused(self.writers[:1])

    def ask_for_pod(self) -> Result:
        """What would be stored of a plain pod, or why it would not."""
        command = ("create", "-n", SHOP, "--dry-run=server", "-o", "json", "-f", "-")
        return self.cluster.kubectl(*command, stdin=pod(), check=False)

    def injects(self) -> bool:
        answer = self.ask_for_pod()
        return answer.code == 0 and SIDECAR in init_names(answer.object)

    def lets_pass(self) -> bool:
        answer = self.ask_for_pod()
        return answer.code == 0 and SIDECAR not in init_names(answer.object)

    def pods(self) -> list[Object]:
        """Of the application; those that are on their way out left aside."""
        items = self.cluster.get("pods", "-n", SHOP, "-l", "app=web")["items"]
        return [one for one in items if "deletionTimestamp" not in one["metadata"]]

    def runs(self, *, sidecars: bool) -> bool:
        """Whether each pod of the application has, or each has not, a sidecar."""
        return bool(self.pods()) and all((SIDECAR in init_names(one)) == sidecars for one in self.pods())

    def secret(self, name: str) -> Object:
        """The data of a Secret of ours; empty if it is not there."""
        answer = self.cluster.kubectl("get", "secret", name, "-n", SYSTEM, "-o", "json", check=False)
        data: Object = answer.object.get("data", {}) if answer.code == 0 else {}
        return data

    def trusted(self) -> set[str]:
        """The CAs that the API server and the sidecars of the application trust, as PEM."""
        webhooks = self.cluster.get("mutatingwebhookconfiguration", WEBHOOK)["webhooks"]
        bundles = [webhook["clientConfig"].get("caBundle", "") for webhook in webhooks]
        published = self.cluster.get("configmap", "envoy-sidecar-ca", "-n", SHOP)["data"]["ca.crt"]
        texts = [published, *(base64.b64decode(bundle).decode() for bundle in bundles)]
        return {one for text in texts for one in CERTIFICATE.findall(text)}

    def metrics(self) -> dict[str, str]:
        """What Prometheus would read, by the instance that it would name."""
        ports = [one.metrics_port for one in (*self.webhooks, *self.writers)]
        return {f"127.0.0.1:{port}": _page(port, "/metrics") for port in ports}

    def settled(self) -> bool:
        """Whether certs and the control plane have once done all that there is to do."""
        with suppress(urllib.error.HTTPError):
            return [_page(one.metrics_port, "/readyz") for one in self.writers] != []
        return False


@contextmanager
def _paused(processes: Sequence[Process]) -> Iterator[None]:
    for one in processes:
        os.kill(one.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in processes:
            os.kill(one.process.pid, signal.SIGCONT)


def _page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@contextmanager
def operating(directory: Path) -> Iterator[Operated]:
    """Installs, and waits until the application in docs/examples runs with sidecars; ends all after the block."""
    with control_plane.started(directory) as cluster, controller_manager(cluster, CONTROLLERS), ExitStack() as stack:
        up = Operated(cluster)
        shutil.copytree(MANIFESTS, up.checkout / "manifests")
        (up.checkout / "docs").symlink_to(CHECKOUT / "docs")
        _run_processes(up, stack)
        kubectl = cluster.kubectl
        kubectl("apply", "-k", str(up.mine))
        kubectl("rollout", "status", "deployment", WEBHOOK, "-n", SYSTEM, "--timeout=60s")
        kubectl("create", "-f", "-", stdin=namespace("observability", {}))
        kubectl("apply", "-f", str(CHECKOUT / "docs/examples/namespace.yaml"))
        eventually(up.injects, "pods are injected")
        kubectl("apply", "-f", str(CHECKOUT / "docs/examples/web.yaml"))
        eventually(lambda: up.runs(sidecars=True), "the application runs")
        eventually(up.settled, "certs and the control plane are ready")
        yield up


def _run_processes(up: Operated, stack: ExitStack) -> None:
    """Runs the node and our processes. The webhook's have a certificate when certs, whose rights are in
    `manifests/base`, has made one, and the overlay names their port."""
    cluster, directory = up.cluster, up.cluster.directory
    mounted, own = {name: directory / name for name in (TLS, XDS_TLS)}, directory / "kubelet"
    for folder in mounted.values():
        folder.mkdir()
    subprocess.run([sys.executable, "-m", "certs", "dev", str(own)], cwd=CHECKOUT, check=True, capture_output=True)
    logs = {
        "webhook": [directory / f"webhook-{number}.log" for number in range(REPLICAS)],
        "certs": [directory / "certs.log"],
        "controlplane": [directory / f"controlplane-{number}.log" for number in range(REPLICAS)],
    }
    mounts = {f"/api/v1/namespaces/{SYSTEM}/secrets/{name}": folder for name, folder in mounted.items()}
    stack.enter_context(node.joined(cluster, own, logs, mounts))

    def run(account: str, package: str, *arguments: str, number: int = 0) -> None:
        port = free_port()
        options = ["--kubeconfig", str(_kubeconfig_of(cluster, account)), "--metrics-address", "127.0.0.1"]
        command = [sys.executable, "-m", package, *arguments, *options, "--metrics-port", str(port)]
        process = stack.enter_context(running(command, logs[package][number], cwd=CHECKOUT))
        up.writers.append(Process(process, port))

    cluster.kubectl("apply", "-k", str(up.checkout / "manifests" / "base"))
    settings = up.checkout / "manifests" / "base" / "settings.yaml"
    run(CERTS, "certs", "run", "--period-seconds=1", "--publication-delay-seconds=2")
    for folder in mounted.values():
        files = {folder / "tls.crt", folder / "tls.key"}
        eventually(lambda files=files: all(file.exists() for file in files), f"see {logs['certs'][0]}")  # type: ignore[misc]
    discovery = ("--settings", str(settings), "--tls-directory", str(mounted[XDS_TLS]))
    for number, port in enumerate((up.xds_port, 0)):
        address = f"127.0.0.1:{port}"
        run(CONTROLPLANE, "controlplane", "serve", *discovery, "--xds-address", address, number=number)
    replicas = [stack.enter_context(replica(log, settings, mounted[TLS])) for log in logs["webhook"]]
    up.webhooks += [Process(one.process, one.metrics_port) for one in replicas]
    port = stack.enter_context(balanced(directory / "balancer.log", [one.port for one in replicas]))
    _write_overlay(up.mine, port)


def _kubeconfig_of(cluster: Cluster, account: str) -> Path:
    """A kubeconfig with the token that a pod of this ServiceAccount would have."""
    token = cluster.kubectl("create", "token", account, "-n", SYSTEM).stdout.strip()
    file = cluster.directory / account
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(kubeconfig(replace(cluster, token=token))))
    return file


def _write_overlay(folder: Path, port: int) -> None:
    """The reader's own installation: the example, with the webhook here."""
    shutil.copytree(folder.with_name("example"), folder)
    here: Object = {"type": "ExternalName", "externalName": "localhost"}
    ports = [{"op": "replace", "path": f"/webhooks/{n}/clientConfig/service/port", "value": port} for n in range(3)]
    kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    patches: list[Object] = [{"target": {"kind": kind}, "patch": yaml.safe_dump(ports)} for kind in kinds]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": WEBHOOK, "namespace": SYSTEM},
    }
    patches.append({"patch": yaml.safe_dump(service | {"spec": here})})
    file = folder / "kustomization.yaml"
    example: Object = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(example | {"patches": patches}))
