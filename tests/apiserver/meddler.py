"""Somebody else's mutating webhook: a small HTTPS server that patches every pod as a test tells it."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.apiserver.cluster import Object

Meddle = Callable[[Object], list[Object]]


@contextmanager
def meddling(certificate: Path, meddle: Meddle) -> Iterator[tuple[str, list[Object]]]:
    """Serves with `tls.crt` and `tls.key` of that folder; `meddle`: pod in, JSON Patch out.

    Yields the URL and the list of requests, which grows.
    """
    requests: list[Object] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(review["request"])
            body = respond(review, meddle)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, name="meddler")
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}/", requests
        finally:
            server.shutdown()
            thread.join()


def respond(review: Object, meddle: Meddle) -> bytes:
    patch = json.dumps(meddle(review["request"]["object"])).encode()
    response = {
        "uid": review["request"]["uid"],
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(patch).decode(),
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    return json.dumps(review).encode()


def registration(name: str, url: str, certificate: Path, namespace: str) -> Object:
    """A MutatingWebhookConfiguration for the pods of one namespace; called once per pod, after ours if
    `name` sorts after ours."""
    ca = base64.b64encode((certificate / "ca.crt").read_bytes()).decode()
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "meddler.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"url": url, "caBundle": ca},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "operations": ["CREATE"],
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["pods"],
                    }
                ],
            }
        ],
    }
