"""Pods of a lab whose proxies are told of Services: by the real control plane on the node, from manifests."""

import http.client
import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml

from certs.__main__ import main as certs
from controlplane.discovery import TRUST_CONFIG_MAP
from controlplane.extensions import Json
from controlplane.ports import PORTS
from tests.apiserver.processes import eventually, running
from tests.build import operator
from tests.cluster import service, slice_of
from tests.dataplane import services
from tests.dataplane.container import CHECKOUT
from tests.dataplane.lab import NODE, Lab, Pod, asks, manifest
from tests.dataplane.lab import application as program
from webhook.settings import Settings

NAME = "controlplane.lab"  # as pods know it
CLUSTER_IP = "10.96.0.1"
PROGRAM = ("-m", "controlplane")


def replica(name: str) -> Json:
    """The container of one replica."""
    return program("replica_app.py", "8080", name, readinessProbe=asks(8080, "/ready"))


def plain_replicas(lab: Lab, *names: str) -> list[Pod]:
    """Pods without sidecars that say their names, behind the ClusterIP."""
    made = [lab.pod(manifest(name, replica(name)), inject=False) for name in names]
    services.service(lab, made)
    return made


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """`controlplane serve --from`, on the node; `say` what its manifests are. The settings make pods ask it."""

    lab: Lab
    folder: Path
    tls: Path
    port: int

    @property
    def settings(self) -> Settings:
        return operator(f"bootstrap: {{controlPlane: '{NAME}:{self.port}'}}")

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    def say(self, *objects: Json) -> None:
        """From now on the cluster is this."""
        self.manifests.mkdir(exist_ok=True)
        fresh = self.manifests / "cluster.new"
        fresh.write_text(yaml.safe_dump_all(objects))
        fresh.rename(self.manifests / "cluster.yaml")

    @contextmanager
    def serving(self, *options: str, program: Sequence[str] = PROGRAM) -> Iterator["subprocess.Popen[bytes]"]:
        """Until the block ends."""
        command = ["nsenter", f"--net={self.lab.node.path}", sys.executable, *program, "serve"]
        command += ["--from", str(self.manifests), "--tls-directory", str(self.tls)]
        command += ["--xds-address", f"{NODE['ipv4']}:{self.port}", "--metrics-address", "127.0.0.1"]
        command += ["--metrics-port", str(self.port + 10_000), *options]
        with running(command, self.folder / "controlplane.log", cwd=CHECKOUT) as process:
            yield process


def told(lab: Lab, document: Json, folder: Path, *, ipv6: bool = True) -> tuple[Pod, ControlPlane]:
    """A pod, created and not started, whose proxy asks a control plane that does not run yet."""
    plane = control_plane(lab, folder)
    return lab.create(document, settings=plane.settings, ipv6=ipv6), plane


def started(lab: Lab, folder: Path, name: str = "web", *, ipv6: bool = True) -> tuple[Pod, ControlPlane]:
    """A caller that is ready without a control plane, and the one that it asks, which does not run yet."""
    pod, plane = told(lab, manifest(name, program("echo.py", "8080")), folder, ipv6=ipv6)
    pod.kubelet.start()
    pod.kubelet.wait_until_ready()
    return pod, plane


def control_plane(lab: Lab, folder: Path) -> ControlPlane:
    """One of a lab's, which all trust alike; it does not run yet."""
    tls = lab.folder / "controlplane-tls"
    if not tls.exists():
        with redirect_stdout(io.StringIO()):
            assert certs(["dev", str(tls), "--name", NAME]) == 0
        lab.config_maps[TRUST_CONFIG_MAP] = {"ca.crt": (tls / "ca.crt").read_bytes()}
        lab.hosts[NAME] = NODE["ipv4"]
    return ControlPlane(lab, folder, tls, next(_PORTS))


_PORTS = count(PORTS.xds)


def orders(replicas: Sequence[Pod], **annotations: str) -> list[Json]:
    """The Service `orders` of these pods, and its slice."""
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    return [
        service("orders", annotations=named, clusterIP=CLUSTER_IP),
        slice_of("orders", [pod.address["ipv4"] for pod in replicas]),
    ]


def ask(
    address: str, port: int, path: str, method: str = "GET", host: str = "orders", **headers: str
) -> tuple[int, str]:
    """Status and body, over a connection of its own."""
    with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
        connection.request(method, path, headers={"Host": host, **headers})
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def until_told(pod: Pod, listener: str) -> None:
    """Waits until the pod's proxy uses that listener."""
    eventually(lambda: listens(pod, listener), f"the proxy uses {listener}", seconds=30)


def listens(pod: Pod, listener: str) -> bool:
    """Whether its proxy uses that listener."""
    return any(line.startswith(f"{listener}::") for line in admin(pod, "/listeners").splitlines())


def admin(pod: Pod, path: str) -> str:
    """A page of the proxy's admin interface, or nothing while it has none."""
    with closing(http.client.HTTPConnection("admin", timeout=10)) as client, suppress(OSError):
        client.sock = socket.socket(socket.AF_UNIX)
        _connect(client.sock, pod.folder / "volumes" / "envoy-sidecar-run" / "admin.sock")
        client.request("GET", path)
        with client.getresponse() as response:
            return response.read().decode()
    return ""


def _connect(client: socket.socket, path: Path) -> None:
    """By its folder's file descriptor: a socket's path has 108 bytes at most, and a test's folder may be longer."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        client.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
