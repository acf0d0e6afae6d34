"""Our webhook as it runs in a cluster: real processes, a certificate of their own, one address in front;
and our manifests, with nothing changed but where the API server finds that address."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver.balancer import balanced
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.processes import NotReadyError, eventually, running, tail

CHECKOUT = Path(__file__).parents[2]
MANIFESTS = CHECKOUT / "manifests"
SETTINGS = MANIFESTS / "base" / "settings.yaml"
OURS = "envoy-sidecar-webhook"  # the MutatingWebhookConfiguration, and the Deployment
REQUESTS = "envoy_sidecar_webhook_admissions_total"


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of ours."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int

    def requests(self) -> int:
        """How many admissions it has answered, by its own count."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as page:
            families = text_string_to_metric_families(page.read().decode())
            samples = [sample for family in families for sample in family.samples]
        return int(sum(sample.value for sample in samples if sample.name == REQUESTS))

    def cpu_seconds(self) -> float:
        """User and system time so far (proc(5)); nothing where there is no /proc."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():
            return float("nan")
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Injector:
    """All replicas, and the address in front of them."""

    port: int
    replicas: tuple[Replica, ...]
    certificate: Path

    def requests(self) -> int:
        return sum(replica.requests() for replica in self.replicas)

    def cpu_seconds(self) -> float:
        return sum(replica.cpu_seconds() for replica in self.replicas)


@contextmanager
def injecting(directory: Path, settings: str, replicas: int) -> Iterator[Injector]:
    """Runs `python -m webhook serve` as often as asked, behind one address; files and logs in `directory`."""
    directory.mkdir(exist_ok=True)
    file, certificate = directory / "settings.yaml", directory / "tls"
    file.write_text(settings)
    subprocess.run([sys.executable, "-m", "certs", "dev", str(certificate)], cwd=CHECKOUT, check=True)
    with ExitStack() as stack:
        up = tuple(
            stack.enter_context(replica(directory / f"webhook-{number}.log", file, certificate))
            for number in range(replicas)
        )
        port = stack.enter_context(balanced(directory / "balancer.log", [one.port for one in up]))
        yield Injector(port, up, certificate)


@contextmanager
def replica(log: Path, settings: Path, certificate: Path, port: int = 0) -> Iterator[Replica]:
    """Runs one until the block ends; port 0 is any that is free."""
    command = [sys.executable, "-m", "webhook", "serve", "--settings", str(settings)]
    command += ["--tls-dir", str(certificate), "--address", "127.0.0.1", "--port", str(port), "--metrics-port", "0"]
    with running(command, log, cwd=CHECKOUT, patient=False) as process:  # its grace period is of 10 s

        def serving() -> Replica | None:
            if process.poll() is not None:
                raise NotReadyError(f"the webhook ended:\n{tail(log)}")
            for line in filter(lambda line: line.startswith("{"), log.read_text().splitlines()):
                event = json.loads(line)
                if event.get("event") == "serving":
                    return Replica(process, event["port"], event["metrics_port"])
            return None

        yield eventually(serving, f"the webhook serves, see {log}")


def manifests(cluster: Cluster, directory: Path, components: Sequence[str] = ()) -> list[Object]:
    """What `kubectl apply -k` would apply: `manifests/base` and these components."""
    inside = directory / "-".join(["base", *components])
    inside.mkdir(exist_ok=True)

    def relative(*parts: str) -> str:
        return os.path.relpath(MANIFESTS.joinpath(*parts), inside)

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative("base")],
        "components": [relative("components", component) for component in components],
    }
    (inside / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return list(yaml.safe_load_all(cluster.kubectl("kustomize", str(inside)).stdout))


def settings(objects: Sequence[Object]) -> str:
    """The settings file that the webhook's Deployment in these manifests mounts."""
    deployment = next(o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", OURS))
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    mounted = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    data = next(o["data"] for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] in mounted)
    (content,) = data.values()
    return str(content)


def pointed(objects: Sequence[Object], port: int, certificate: Path) -> list[Object]:
    """The same manifests, their webhooks called on this loopback port: nobody routes ClusterIPs here."""
    ca = base64.b64encode((certificate / "ca.crt").read_bytes()).decode()

    def here(webhook: Object) -> Object:
        path = webhook["clientConfig"]["service"]["path"]
        return webhook | {"clientConfig": {"url": f"https://127.0.0.1:{port}{path}", "caBundle": ca}}

    return [o | {"webhooks": [here(webhook) for webhook in o["webhooks"]]} if "webhooks" in o else o for o in objects]
