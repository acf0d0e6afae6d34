"""A node that runs nothing: pods are bound to it and ready at once, their logs and Secrets are files of this machine.

It is as much of a kubelet as `kubectl rollout status`, `kubectl logs` and a process that reads a mounted Secret can
see, and no more.
"""

import base64
import http.client
import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.apiserver.cluster import Cluster, Object

NAME = "node"
LOOK_SECONDS = 0.1
MERGE = "application/merge-patch+json"


@contextmanager
def joined(
    cluster: Cluster, certificate: Path, logs: Mapping[str, Sequence[Path]], mounts: Mapping[str, Path]
) -> Iterator[None]:
    """The node, until the block ends.

    `certificate` is a folder with tls.crt and tls.key; `logs` are by the container's name, the same for every pod, and
    `mounts` are folders by the path of a Secret in the API.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(logs))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    cluster.kubectl("create", "-f", "-", stdin=_node(server.server_port))
    end = threading.Event()
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": LOOK_SECONDS}),
        threading.Thread(target=_run_pods, args=(cluster, mounts, end)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()


def _node(port: int) -> Object:
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}, "status": status}


def _run_pods(cluster: Cluster, mounts: Mapping[str, Path], end: threading.Event) -> None:
    """Brings each pod a step further, and each mounted Secret up to date, again and again."""
    address = urlsplit(cluster.url)
    connection = http.client.HTTPSConnection(address.netloc, context=ssl.create_default_context(cafile=cluster.ca))

    def ask(method: str, path: str, body: Object | None = None, content: str = "application/json") -> Object:
        headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": content}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        with connection.getresponse() as response:
            answer: Object = json.loads(response.read())
        return answer

    while not end.wait(LOOK_SECONDS):
        for pod in ask("GET", "/api/v1/pods")["items"]:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                ask("DELETE", path, {"gracePeriodSeconds": 0})
            elif "nodeName" not in pod["spec"]:
                target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
                metadata = {"name": pod["metadata"]["name"]}
                ask("POST", f"{path}/binding", {"metadata": metadata, "target": target})
            elif pod["status"]["phase"] == "Pending":
                conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
                ask("PATCH", f"{path}/status", {"status": {"phase": "Running", "conditions": conditions}}, MERGE)
        for secret, folder in mounts.items():
            _mount(ask("GET", secret).get("data", {}), folder)
    connection.close()


def _mount(data: Mapping[str, str], folder: Path) -> None:
    """Puts the values of a Secret into files. As with a kubelet's, none goes away with its Secret."""
    for name, value in data.items():
        content = base64.b64decode(value)
        file = folder / name
        if content and not (file.exists() and file.read_bytes() == content):
            fresh = folder / f".{name}"
            fresh.write_bytes(content)
            fresh.replace(file)


def _handler(logs: Mapping[str, Sequence[Path]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET /containerLogs/NAMESPACE/POD/CONTAINER?tailLines=N, as a kubelet does."""

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            files = logs.get(asked.path.rpartition("/")[2], ())
            lines = b"".join(file.read_bytes() for file in files).splitlines(keepends=True)
            tail = parse_qs(asked.query).get("tailLines")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"".join(lines[-int(tail[0]) :] if tail else lines))

        def log_message(self, *_: Any) -> None:
            """Says nothing of requests."""

    return Handler
