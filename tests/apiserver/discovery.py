"""A control plane that serves proxies beside a real API server, and the tokens that real pods show it."""

import json
import subprocess
import sys
import urllib.request
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client.parser import text_string_to_metric_families

from controlplane.discovery import AUDIENCE
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import CHECKOUT
from tests.apiserver.objects import OPT_OUT, pod
from tests.apiserver.processes import NotReadyError, eventually, running, tail

PREFIX = "envoy_sidecar_controlplane_xds"
NODE = "node-1"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A process of ours, and where it serves."""

    process: "subprocess.Popen[bytes]"
    port: int
    metrics_port: int
    ca: bytes

    def counted(self, name: str, **labels: str) -> float:
        """The value of a metric of discovery; 0 if there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as page:
            families = text_string_to_metric_families(page.read().decode())
            samples = [sample for family in families for sample in family.samples]
        return sum(it.value for it in samples if it.name == f"{PREFIX}_{name}" and it.labels == labels)

    def memory(self) -> float:
        """Resident, in MiB; nothing where there is no /proc."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """The most that was resident ever, likewise."""
        return self._status("VmHWM")

    def _status(self, field: str) -> float:
        """Of proc(5), in MiB."""
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


@contextmanager
def serving(kubeconfig: Path, folder: Path, tls: Path | None = None) -> Iterator[ControlPlane]:
    """`python -m controlplane serve` as its manifest starts it, on free ports of loopback; it has listed the cluster.

    `tls` is a folder with ca.crt, tls.crt and tls.key; without it, one is made, for `localhost`.
    """
    folder.mkdir(exist_ok=True)
    log = folder / "controlplane.log"
    if tls is None:
        tls = folder / "tls"
        subprocess.run([sys.executable, "-m", "certs", "dev", str(tls)], cwd=CHECKOUT, check=True, capture_output=True)
    command = [sys.executable, "-m", "controlplane", "serve", "--kubeconfig", str(kubeconfig)]
    command += ["--tls-directory", str(tls), "--xds-address", "127.0.0.1:0"]
    command += ["--metrics-address", "127.0.0.1", "--metrics-port", "0"]
    with running(command, log, cwd=CHECKOUT) as process:

        def ready() -> ControlPlane | None:
            if process.poll() is not None:
                raise NotReadyError(f"the control plane ended:\n{tail(log)}")
            for line in log.read_text().splitlines():
                told = json.loads(line)
                if told["event"] == "serving":
                    ports = int(told["xds_port"]), int(told["metrics_port"])
                    return ControlPlane(process, *ports, (tls / "ca.crt").read_bytes())
            return None

        found = eventually(ready, f"the control plane serves, see {log}")
        eventually(lambda: found.counted("snapshots_total"), f"it has listed the cluster, see {log}")
        yield found
    assert "Traceback" not in log.read_text()


def run_pod(cluster: Cluster, namespace: str, name: str = "web-1", **annotations: str) -> Object:
    """A pod that has a sidecar by its label, on a node; as it is stored."""
    labels = {
        **OPT_OUT,
        "envoy-sidecar.io/injected": "true",
    }  # so that the webhook does not refuse what it did not make
    thing = pod(name, labels=labels, annotations=annotations, nodeName=NODE)
    return cluster.kubectl("create", "-n", namespace, "-o", "json", "-f", "-", stdin=thing).object


def token_of(cluster: Cluster, namespace: str, name: str = "", audience: str = AUDIENCE) -> str:
    """What the kubelet would get for that pod; without a name, for its ServiceAccount alone."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={name}"] if name else []
    command = ("create", "token", "default", "-n", namespace, f"--audience={audience}", "--duration=10m")
    return cluster.kubectl(*command, *bound).stdout.strip()


def signed_again(cluster: Cluster, token: str, **changes: object) -> str:
    """The token with other claims, and the API server's own signature."""
    header, payload, _ = token.split(".")
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    said = f"{header}.{_encode(json.dumps(claims | changes).encode())}"
    key = load_pem_private_key((cluster.directory / "service-accounts.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(said.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{said}.{_encode(r.to_bytes(32) + s.to_bytes(32))}"


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
