"""`certs` as it runs in a cluster: processes with the token of its account, and a kubelet's view of what they write.

Whether all is well is asked of somebody else's code: the X.509 verifier of `cryptography`.
"""

import base64
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from prometheus_client.parser import text_string_to_metric_families

from tests import mounted
from tests.apiserver import binaries, control_plane
from tests.apiserver.account import SYSTEM, Account, sign_in
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import CHECKOUT, manifests
from tests.apiserver.processes import NotReadyError, eventually, running, tail

CA, WEBHOOK, CONTROLPLANE = "envoy-sidecar-ca-key", "envoy-sidecar-webhook-tls", "envoy-sidecar-controlplane-tls"
SECRETS = (CA, WEBHOOK, CONTROLPLANE)
HOST = "envoy-sidecar-webhook.envoy-sidecar-system.svc"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
REGISTRATIONS = (
    f"{ADMISSION}/mutatingwebhookconfigurations/envoy-sidecar-webhook",
    f"{ADMISSION}/validatingwebhookconfigurations/envoy-sidecar-advisor",
)
CONFIG_MAPS = "/api/v1/configmaps?fieldSelector=metadata.name=envoy-sidecar-ca"
MOUNT_SECONDS = 0.2
PREFIX = "envoy_sidecar_certs"


@dataclass(frozen=True, slots=True)
class Process:
    """One `certs run`."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int  # of metrics and health

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name, without our prefix, with these labels."""
        families = text_string_to_metric_families(self.page("/metrics"))
        samples = [one for family in families for one in family.samples if one.name == f"{PREFIX}_{name}"]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def ready(self) -> bool:
        try:
            self.page("/readyz")
        except urllib.error.HTTPError:
            return False
        return True

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def steps(self, verb: str) -> list[dict[str, Any]]:
        return [line for line in self.events("step") if line["step"] == verb]


@dataclass(frozen=True, slots=True)
class Keeping:
    """A cluster with `manifests/base` in it, in which `certs` can run."""

    cluster: Cluster
    account: Account
    admin: Account = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "admin", Account(self.cluster, "admin", self.cluster.token))

    @contextmanager
    def running(self, name: str, *options: str) -> Iterator[Process]:
        """One process; its log is called `name`."""
        with self.started([name], *options) as (process,):
            yield process

    @contextmanager
    def started(self, names: Sequence[str], *options: str) -> Iterator[list[Process]]:
        """Some of them, started at the same instant."""
        kubeconfig = ["--kubeconfig", str(self.account.kubeconfig)]
        address = ["--metrics-address", "127.0.0.1", "--metrics-port", "0"]
        command = [sys.executable, "-m", "certs", "run", *kubeconfig, *address, *options]
        with _all(command, [self.cluster.directory / f"{name}.log" for name in names]) as up:
            yield [Process(process, log, _port(process, log)) for process, log in up]

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`certs` with these arguments, by a person with a kubeconfig."""
        command = [sys.executable, "-m", "certs", *arguments]
        environment = {"KUBECONFIG": str(self.cluster.kubeconfig), "PATH": ""}
        return subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def wipe(self) -> None:
        """Takes everything away that `certs` ever made."""
        self.cluster.kubectl("delete", "secret", "-n", SYSTEM, "--ignore-not-found", *SECRETS)
        for one in self.config_maps():
            self.cluster.kubectl("delete", "configmap", one["metadata"]["name"], "-n", one["metadata"]["namespace"])
        for path in REGISTRATIONS:
            self.publish(path, "")

    def publish(self, path: str, bundle: str) -> None:
        """Makes this, in base64, the caBundle of each entry of a registration."""
        count = len(self.get(path)["webhooks"])
        patch = [{"op": "add", "path": f"/webhooks/{n}/clientConfig/caBundle", "value": bundle} for n in range(count)]
        answer = self.admin.ask("PATCH", path, patch, "application/json-patch+json", dry=False)
        assert answer.status == 200, answer.message

    def call_webhook_on(self, port: int) -> None:
        """Makes the API server call the webhook on this port of this machine, by the name of its Service."""
        for path in REGISTRATIONS:
            count = len(self.get(path)["webhooks"])
            where = [f"/webhooks/{n}/clientConfig/service/port" for n in range(count)]
            patch = [{"op": "replace", "path": one, "value": port} for one in where]
            answer = self.admin.ask("PATCH", path, patch, "application/json-patch+json", dry=False)
            assert answer.status == 200, answer.message

    def get(self, path: str) -> Object:
        return self.admin.ask("GET", path).body

    def config_maps(self) -> list[Object]:
        items: list[Object] = self.get(CONFIG_MAPS)["items"]
        return items

    def secret(self, name: str) -> dict[str, bytes]:
        data = self.get(f"/api/v1/namespaces/{SYSTEM}/secrets/{name}").get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    def trusts(self) -> list[bytes]:
        """Every trust that is published, entry by entry."""
        entries = [entry["clientConfig"] for path in REGISTRATIONS for entry in self.get(path)["webhooks"]]
        bundles = [base64.b64decode(entry.get("caBundle", "")) for entry in entries]
        return bundles + [one.get("data", {}).get("ca.crt", "").encode() for one in self.config_maps()]

    def well(self) -> bool:
        """Whether every published trust, and there is one in each place, verifies what is served."""
        leaf = self.secret(WEBHOOK).get("tls.crt", b"")
        return bool(self.config_maps()) and all(verifies(trust, leaf) for trust in self.trusts())

    def versions(self) -> dict[str, str]:
        """All that `certs` writes, and its resourceVersions."""
        secrets = [self.get(f"/api/v1/namespaces/{SYSTEM}/secrets/{name}") for name in SECRETS]
        objects = [*secrets, *(self.get(path) for path in REGISTRATIONS), *self.config_maps()]
        metadata = [one["metadata"] for one in objects]
        return {f"{one.get('namespace')}/{one['name']}/{one['uid']}": one["resourceVersion"] for one in metadata}


def verifies(trust: bytes, leaf: bytes) -> bool:
    """Whether somebody who asks for the webhook, and trusts that, accepts this certificate now."""
    try:
        policy = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(trust))).time(datetime.now(UTC))
        policy.build_server_verifier(x509.DNSName(HOST)).verify(x509.load_pem_x509_certificate(leaf), [])
    except (VerificationError, ValueError):
        return False
    return True


@contextmanager
def installed(directory: Path) -> Iterator[Keeping]:
    """A control plane of its own, and `manifests/base` in it."""
    for program in ("kube-apiserver", "kubectl"):
        binaries.kubernetes(program)
    with control_plane.started(directory) as cluster:
        yield install(cluster)


def install(cluster: Cluster) -> Keeping:
    cluster.kubectl("apply", "-f", "-", stdin=[here(one) for one in manifests(cluster, cluster.directory)])
    return Keeping(cluster, sign_in(cluster, "envoy-sidecar-certs"))


def here(thing: Object) -> Object:
    """The same object; but the webhook's Service is this machine, where nobody routes to addresses of a cluster."""
    if thing["kind"] == "Service" and thing["metadata"]["name"] == "envoy-sidecar-webhook":
        return thing | {"spec": {"type": "ExternalName", "externalName": "localhost"}}
    return thing


@contextmanager
def mounting(keeping: Keeping, path: str, folder: Path, late: float = 0) -> Iterator[None]:
    """What a kubelet does: keeps a folder like the Secret or ConfigMap of that path, `late` by so many seconds."""
    end = threading.Event()
    decode: Callable[[str], bytes] = base64.b64decode if "/secrets/" in path else str.encode

    def follow() -> None:
        seen: list[tuple[float, Mapping[str, str]]] = []
        current: Mapping[str, str] | None = None
        while not end.wait(MOUNT_SECONDS):
            data = keeping.get(path).get("data")
            if data and (not seen or seen[-1][1] != data):  # what is taken away stays with those who have it
                seen.append((time.monotonic() + (late if seen else 0), data))
            due = [data for when, data in seen if when <= time.monotonic()]
            if due and due[-1] is not current:
                mounted.write(folder, {name: decode(value) for name, value in due[-1].items()})
            current = due[-1] if due else None

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def _all(command: Sequence[str], logs: Sequence[Path]) -> "Iterator[list[tuple[subprocess.Popen[bytes], Path]]]":
    if not logs:
        yield []
        return
    first, *rest = logs
    with running(command, first, cwd=CHECKOUT) as process, _all(command, rest) as others:
        yield [(process, first), *others]


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    def port() -> int | None:
        if process.poll() is not None:
            raise NotReadyError(f"certs ended:\n{tail(log)}")
        lines = [json.loads(line) for line in log.read_text().splitlines() if '"running"' in line]
        return lines[0]["metrics_port"] if lines else None

    return eventually(port, f"certs runs, see {log}")
