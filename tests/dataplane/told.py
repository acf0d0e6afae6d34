"""A pod of a lab whose proxy is told of Services: the real control plane beside it, in its network, with manifests."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from controlplane.extensions import Json
from controlplane.ports import PORTS
from tests.apiserver.processes import eventually, running
from tests.cluster import service, slice_of
from tests.dataplane.container import CHECKOUT
from tests.dataplane.lab import Lab, Pod, asks
from tests.dataplane.lab import application as program

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CLUSTER_IP = "10.96.0.1"


def replica(name: str) -> Json:
    """The container of one replica."""
    return program("replica_app.py", "8080", name, readinessProbe=asks(8080, "/ready"))


@dataclass(slots=True)
class ControlPlane:
    """`controlplane serve --from`, in the network of a pod; `objects` is what its manifests say."""

    pod: Pod
    folder: Path

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
    def serving(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Until the block ends."""
        command = ["nsenter", f"--net={self.pod.net.path}", sys.executable, "-m", "controlplane", "serve"]
        command += ["--from", str(self.manifests), "--metrics-address", "127.0.0.1", "--metrics-port", "19090"]
        with running(command, self.folder / "controlplane.log", cwd=CHECKOUT) as process:
            yield process


def told(lab: Lab, document: Json, folder: Path, *, ipv6: bool = True) -> tuple[Pod, ControlPlane]:
    """A pod, created and not started, whose proxy asks a control plane on its loopback, which does not run yet."""
    pod = lab.create(document, ipv6=ipv6)
    (sidecar,) = (one for one in pod.document["spec"]["initContainers"] if one["name"] == "envoy-sidecar")
    at = sidecar["args"].index("--config-yaml") + 1
    sidecar["args"][at] = json.dumps(_merged(json.loads(sidecar["args"][at]), _DISCOVERY))
    return pod, ControlPlane(pod, folder)


def _merged(one: Json, other: Mapping[str, object]) -> Json:
    merged = dict(one)
    for key, value in other.items():
        there = merged.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            merged[key] = _merged(there, value)
        elif isinstance(there, list) and isinstance(value, list):
            merged[key] = there + value
        else:
            merged[key] = value
    return merged


_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "1s"}
_DISCOVERY: Json = {
    "dynamic_resources": {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        },
        "cds_config": _ADS,
        "lds_config": _ADS,
    },
    "static_resources": {
        "clusters": [
            {
                "name": "xds",
                "type": "STATIC",
                "connect_timeout": "1s",
                "load_assignment": {
                    "cluster_name": "xds",
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {
                                    "endpoint": {
                                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORTS.xds}}
                                    }
                                }
                            ]
                        }
                    ],
                },
                "typed_extension_protocol_options": {
                    HTTP_OPTIONS: {
                        "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    }
                },
            }
        ]
    },
}


def orders(replicas: Sequence[Pod], **annotations: str) -> list[Json]:
    """The Service `orders` of these pods, and its slice."""
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    return [
        service("orders", annotations=named, clusterIP=CLUSTER_IP),
        slice_of("orders", [pod.address["ipv4"] for pod in replicas]),
    ]


def until_told(pod: Pod, listener: str) -> None:
    """Waits until the pod's proxy uses that listener."""
    eventually(lambda: listener in admin(pod, "/listeners"), f"the proxy uses {listener}", seconds=30)


def admin(pod: Pod, path: str) -> str:
    """A page of the proxy's admin interface, or nothing while it has none."""
    with closing(http.client.HTTPConnection("admin", timeout=10)) as client, suppress(OSError):
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.connect(str(pod.folder / "volumes" / "envoy-sidecar-run" / "admin.sock"))
        client.request("GET", path)
        with client.getresponse() as response:
            return response.read().decode()
    return ""
