"""Every command of docs/operations.md, in the order of the page: it runs, and what the page says of it is true.

The cluster is one of its own, since at the end of the page the injector is uninstalled. In it are our manifests as they
are, but for the port that the API server calls; `certs` and the webhook are real processes, on a node that only seems
to run them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from tests import needs
from tests.apiserver import binaries, control_plane, node
from tests.apiserver.balancer import balanced
from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.control_plane import controller_manager, kubeconfig
from tests.apiserver.injector import CHECKOUT, MANIFESTS, Replica, replica
from tests.apiserver.objects import INIT, SIDECAR, container_names, init_names, namespace, pod
from tests.apiserver.page import Fence, fences
from tests.apiserver.processes import eventually, running, stop

SYSTEM, SHOP = "envoy-sidecar-system", "shop"
CERTS, CONTROLPLANE = "envoy-sidecar-certs", "envoy-sidecar-controlplane"
TLS, CA = "envoy-sidecar-webhook-tls", "envoy-sidecar-ca-key"
FENCES = fences(CHECKOUT / "docs" / "operations.md")
CONTROLLERS = (
    *control_plane.CONTROLLERS,
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
HURRIED = ["--period-seconds", "1", "--publication-delay-seconds", "2", "--metrics-port", "0"]


@dataclass(frozen=True, slots=True)
class Operated:
    """A cluster with an installation in it, a folder like a checkout, and somebody to type commands there."""

    cluster: Cluster
    checkout: Path
    replicas: tuple[Replica, ...]
    writers: tuple["subprocess.Popen[bytes]", ...]

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

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """No replica of the webhook answers, and none refuses a connection either."""
        for one in self.replicas:
            os.kill(one.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in self.replicas:
                os.kill(one.process.pid, signal.SIGCONT)

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

    def trust(self) -> list[str]:
        """The caBundles of the registration that injects."""
        webhooks = self.cluster.get("mutatingwebhookconfiguration", "envoy-sidecar-webhook")["webhooks"]
        return [webhook["clientConfig"].get("caBundle", "") for webhook in webhooks]


# The installation


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Operated]:
    directory = tmp_path_factory.mktemp("operations")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for program in ("kube-apiserver", "kubectl", "kube-controller-manager"):
            binaries.kubernetes(program)
    with control_plane.started(directory) as cluster, controller_manager(cluster, CONTROLLERS), ExitStack() as stack:
        yield install(cluster, checkout(directory), stack)


def checkout(directory: Path) -> Path:
    """A folder with what the commands of the page read, and room for what they write."""
    folder = directory / "checkout"
    shutil.copytree(MANIFESTS, folder / "manifests")
    (folder / "docs").symlink_to(CHECKOUT / "docs")
    return folder


def install(cluster: Cluster, folder: Path, stack: ExitStack) -> Operated:
    """Installs, and waits until pods are injected. What has to run is entered into `stack`."""
    mounted = cluster.directory / "tls"
    mounted.mkdir()
    logs = [cluster.directory / f"webhook-{number}.log" for number in range(2)]
    certs_log, controlplane_log = cluster.directory / "certs.log", cluster.directory / "controlplane.log"
    served = cluster.directory / "kubelet"
    subprocess.run([sys.executable, "-m", "certs", "dev", str(served)], cwd=CHECKOUT, check=True, capture_output=True)
    mounts = {f"/api/v1/namespaces/{SYSTEM}/secrets/{TLS}": mounted}
    stack.enter_context(
        node.joined(
            cluster, served, {"webhook": logs, "certs": [certs_log], "controlplane": [controlplane_log]}, mounts
        )
    )
    cluster.kubectl("apply", "-k", str(folder / "manifests" / "base"))
    certs = stack.enter_context(process(cluster, CERTS, certs_log, "certs", "run", *HURRIED))
    eventually(lambda: (mounted / "tls.key").exists() and (mounted / "tls.crt").exists(), f"a certificate: {certs_log}")
    settings = folder / "manifests" / "base" / "settings.yaml"
    replicas = [stack.enter_context(replica(log, settings, mounted)) for log in logs]
    port = stack.enter_context(balanced(cluster.directory / "balancer.log", [one.port for one in replicas]))
    write_overlay(folder / "manifests" / "overlays" / "mine", port)
    cluster.kubectl("apply", "-k", str(folder / "manifests" / "overlays" / "mine"))
    cluster.kubectl("rollout", "status", "deployment", "envoy-sidecar-webhook", "-n", SYSTEM, "--timeout=60s")
    cluster.kubectl("create", "-f", "-", stdin=namespace("observability", {}))
    cluster.kubectl("apply", "-f", str(CHECKOUT / "docs/examples/namespace.yaml"))
    settings = folder / "manifests" / "overlays" / "mine" / "settings" / "settings.yaml"
    serve = ("controlplane", "serve", "--metrics-port", "0", "--settings", str(settings))
    controlplane = stack.enter_context(process(cluster, CONTROLPLANE, controlplane_log, *serve))
    up = Operated(cluster, folder, tuple(replicas), (certs, controlplane))
    eventually(up.injects, "pods are injected")
    cluster.kubectl("apply", "-f", str(CHECKOUT / "docs/examples/web.yaml"))
    eventually(lambda: up.runs(sidecars=True), "the application runs")
    return up


def process(
    cluster: Cluster, account: str, log: Path, *arguments: str
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """`python -m` with these arguments, as this ServiceAccount."""
    command = [sys.executable, "-m", *arguments, "--kubeconfig", str(kubeconfig_of(cluster, account))]
    return running(command, log, cwd=CHECKOUT)


def kubeconfig_of(cluster: Cluster, account: str) -> Path:
    """A kubeconfig with the token that a pod of this ServiceAccount would have."""
    token = cluster.kubectl("create", "token", account, "-n", SYSTEM).stdout.strip()
    file = cluster.directory / account
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(kubeconfig(replace(cluster, token=token))))
    return file


def write_overlay(folder: Path, port: int) -> None:
    """The reader's own installation: the example, with pods refused when the webhook fails, and the webhook here."""
    shutil.copytree(folder.with_name("example"), folder)
    here: Object = {"type": "ExternalName", "externalName": "localhost"}
    ports = [{"op": "replace", "path": f"/webhooks/{n}/clientConfig/service/port", "value": port} for n in range(3)]
    kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    patches: list[Object] = [{"target": {"kind": kind}, "patch": yaml.safe_dump(ports)} for kind in kinds]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "envoy-sidecar-webhook", "namespace": SYSTEM},
    }
    patches.append({"patch": yaml.safe_dump(service | {"spec": here})})
    file = folder / "kustomization.yaml"
    example: Object = yaml.safe_load(file.read_text())
    components = [one for one in example["components"] if not one.endswith("failure-policy-ignore")]
    file.write_text(yaml.safe_dump(example | {"components": components, "patches": patches}))


# What the page promises of its commands: before `yield`, what is the case; after it, what has become of it.

Promise = Generator[None, Result, None]


def it_works(_: Operated) -> Promise:
    printed = yield
    assert printed.stdout == f"{INIT} {SIDECAR}\n"


def the_log_is_shown(_: Operated) -> Promise:
    printed = yield
    assert '"event":"serving"' in printed.stdout


def pods_start_though_the_webhook_hangs(operated: Operated) -> Promise:
    with operated.hanging():
        assert "failed calling webhook" in operated.ask_for_pod().stderr
        yield
        eventually(operated.lets_pass, "pods are created without the webhook")
        operated.cluster.kubectl("delete", "pods", "-n", SHOP, "-l", "app=web")
        eventually(lambda: operated.runs(sidecars=False), "the application runs without sidecars")


def sidecars_come_back(operated: Operated) -> Promise:
    yield
    eventually(operated.injects, "pods are injected")


def pods_without_a_sidecar_are_found_and_replaced(operated: Operated) -> Promise:
    names = [one["metadata"]["name"] for one in operated.pods()]
    printed = yield
    assert all(name in printed.stdout for name in names)
    eventually(lambda: operated.runs(sidecars=True), "the application runs with sidecars")


def a_certificate_is_made_anew(operated: Operated) -> Promise:
    yield from made_anew(operated, TLS)


def a_ca_is_made_anew(operated: Operated) -> Promise:
    yield from made_anew(operated, CA)


def made_anew(operated: Operated, name: str) -> Promise:
    former = operated.secret(name)
    assert former
    yield
    eventually(lambda: operated.secret(name) and operated.secret(name) != former, f"there is another {name}")
    assert operated.injects()


def certs_is_among_the_managers(_: Operated) -> Promise:
    printed = yield
    assert f"\t{CERTS}\n" in printed.stdout


def prometheus_takes_the_rules(_: Operated) -> Promise:
    needs.binary("promtool", "apt install prometheus, or put Prometheus' promtool on PATH")
    printed = yield
    assert printed.stdout.count("SUCCESS") == 3


def the_end_of_the_certificate_is_told(_: Operated) -> Promise:
    needs.binary("openssl", "apt install openssl")
    printed = yield
    assert printed.stdout.startswith("notAfter=")


def rejections_are_told_with_their_reason(operated: Operated) -> Promise:
    wrong = pod(annotations={"log-level": "banana"})
    operated.cluster.kubectl("create", "-n", SHOP, "-f", "-", stdin=wrong, check=False)
    printed = yield
    assert '"reason":"bad_annotation"' in printed.stdout


def three_replicas_are_ready(operated: Operated) -> Promise:
    yield
    deployment = ("deployment", "envoy-sidecar-webhook", "-n", SYSTEM)
    eventually(lambda: operated.cluster.get(*deployment)["status"].get("readyReplicas") == 3, "three are ready")


def the_api_server_counts_its_failed_calls(_: Operated) -> Promise:
    printed = yield
    assert 'apiserver_admission_webhook_rejection_count{error_type="calling_webhook_error"' in printed.stdout


def its_rights_are_listed(_: Operated) -> Promise:
    printed = yield
    assert re.search(
        r"mutatingwebhookconfigurations\S+ +\[\] +\[envoy-sidecar-webhook\] +\[get .*patch", printed.stdout
    )


def pods_are_listed_with_their_release(operated: Operated) -> Promise:
    printed = yield
    lines = [line.split() for line in printed.stdout.splitlines()]
    assert {line[1] for line in lines[1:]} >= {one["metadata"]["name"] for one in operated.pods()}
    assert "<none>" not in printed.stdout


def no_trust_is_lost(operated: Operated) -> Promise:
    former = operated.trust()
    assert former
    yield
    assert operated.trust() == former
    assert operated.injects()


def the_bootstrap_is_announced(operated: Operated) -> Promise:
    printed = yield
    config_maps = operated.cluster.get("configmaps", "-n", SHOP)["items"]
    names = [
        one["metadata"]["name"].rpartition("-")[2] for one in config_maps if "bootstrap" in one["metadata"]["name"]
    ]
    assert names
    assert all(name in printed.stdout for name in names)


def sidecars_go(operated: Operated) -> Promise:
    yield
    eventually(lambda: operated.runs(sidecars=False), "the application runs without sidecars")


def nothing_of_ours_is_left(operated: Operated) -> Promise:
    for one in operated.writers:
        stop(one)  # as the kubelet would, once its pod is deleted
    yield
    kinds = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations"
    policies = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    ours = ("get", f"{kinds},{policies}", "-l", "app.kubernetes.io/part-of=envoy-sidecar-injector", "-o", "name")
    eventually(lambda: operated.cluster.kubectl(*ours).stdout == "", "nothing of ours is left")
    config_maps = operated.cluster.kubectl("get", "configmaps", "-n", SHOP, "-o", "name").stdout
    assert "envoy-sidecar" not in config_maps
    assert "envoy-sidecar.io" not in repr(operated.cluster.get("namespace", SHOP)["metadata"]["labels"])
    assert all(container_names(one) == ["web"] for one in operated.pods())


PROMISES: dict[str, Callable[[Operated], Promise]] = {
    "What runs 1": it_works,
    "What runs 2": the_log_is_shown,
    "Break the glass 1": pods_start_though_the_webhook_hangs,
    "Break the glass 2": sidecars_come_back,
    "Break the glass 3": pods_without_a_sidecar_are_found_and_replaced,
    "Certificates 2": a_certificate_is_made_anew,
    "Certificates 3": a_ca_is_made_anew,
    "Certificates 4": certs_is_among_the_managers,
    "Monitoring 2": prometheus_takes_the_rules,
    "EnvoySidecarCertificateNotRenewed 1": the_end_of_the_certificate_is_told,
    "EnvoySidecarRejectionsAboveNormal 1": rejections_are_told_with_their_reason,
    "EnvoySidecarWebhookSlow 1": three_replicas_are_ready,
    "EnvoySidecarAdmissionFailing 1": the_api_server_counts_its_failed_calls,
    "EnvoySidecarCertsFailing 1": its_rights_are_listed,
    "EnvoySidecarPublicationFailing 1": the_bootstrap_is_announced,
    "Upgrade 1": no_trust_is_lost,
    "Upgrade 3": pods_are_listed_with_their_release,
    "Uninstall 1": pods_start_though_the_webhook_hangs,
    "Uninstall 2": sidecars_go,
    "Uninstall 3": nothing_of_ours_is_left,
}


def nothing(_: Operated) -> Promise:
    """The command has to work, that is all."""
    yield


@pytest.mark.parametrize("fence", FENCES, ids=str)
def test_a_command_works_and_does_what_the_page_says(fence: Fence, operated: Operated) -> None:
    promise = PROMISES.get(str(fence), nothing)(operated)
    next(promise)
    try:
        printed = operated.type(fence.commands)
        print(printed.stdout, printed.stderr)
        assert printed.code == 0, printed.stderr
        with suppress(StopIteration):
            promise.send(printed)
    finally:
        promise.close()


def test_every_promise_is_of_a_command_of_the_page() -> None:
    assert set(PROMISES) <= {str(fence) for fence in FENCES}
