"""A client that creates pods as fast as the API server takes them, and leaves it most of the CPU, as kubectl does not.

It looks at no more of an answer than its status and its end: http.client takes three times the CPU, 0.4 ms for a pod.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.apiserver.cluster import Cluster, Object
from tests.bench.client import CHUNK, complete

TIMEOUT_SECONDS = 60


class Creator:
    """Creates pods in one namespace; each thread has a connection of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.path = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self.context = ssl.create_default_context(cafile=cluster.ca)
        self.local = threading.local()
        self.connections: list[ssl.SSLSocket] = []

    def create(self, thing: Object) -> int:
        """The status of the answer. Raises OSError if the connection ends before it; the next pod opens another."""
        connection = self.connection()
        try:
            connection.sendall(self.request(json.dumps(thing).encode()))
            return _status(connection)
        except OSError:
            del self.local.connection
            raise

    def connection(self) -> ssl.SSLSocket:
        if not hasattr(self.local, "connection"):
            address = urlsplit(self.cluster.url)
            plain = socket.create_connection((address.hostname, address.port), TIMEOUT_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local.connection = self.context.wrap_socket(plain, server_hostname=address.hostname)
            self.connections.append(self.local.connection)
        connection: ssl.SSLSocket = self.local.connection
        return connection

    def request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {urlsplit(self.cluster.url).netloc}\r\nAccept: application/json"
            f"\r\nAuthorization: Bearer {self.cluster.token}\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _status(connection: ssl.SSLSocket) -> int:
    answer = b""
    while not complete(answer):
        chunk = connection.recv(CHUNK)
        if not chunk:
            raise ConnectionResetError(f"the API server hung up after {len(answer)} bytes of an answer")
        answer += chunk
    return int(answer.split(maxsplit=2)[1])


@contextmanager
def creating(cluster: Cluster, namespace: str) -> Iterator[Creator]:
    """A Creator whose connections end with the block."""
    creator = Creator(cluster, namespace)
    try:
        yield creator
    finally:
        for connection in creator.connections:
            connection.close()
