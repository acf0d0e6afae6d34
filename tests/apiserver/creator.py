"""A client that creates pods as fast as the API server takes them, which kubectl does not."""

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.apiserver.cluster import Cluster, Object


class Creator:
    """Creates pods in one namespace; each thread has a connection of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.path = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self.local = threading.local()
        self.connections: list[http.client.HTTPSConnection] = []

    def connection(self) -> http.client.HTTPSConnection:
        if not hasattr(self.local, "connection"):
            address = urlsplit(self.cluster.url)
            context = ssl.create_default_context(cafile=self.cluster.ca)
            self.local.connection = http.client.HTTPSConnection(address.netloc, context=context)
            self.connections.append(self.local.connection)
        connection: http.client.HTTPSConnection = self.local.connection
        return connection

    def create(self, thing: Object) -> int:
        """The status of the answer."""
        headers = {"Authorization": f"Bearer {self.cluster.token}", "Content-Type": "application/json"}
        connection = self.connection()
        connection.request("POST", self.path, json.dumps(thing), headers)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status


@contextmanager
def creating(cluster: Cluster, namespace: str) -> Iterator[Creator]:
    """A Creator whose connections end with the block."""
    creator = Creator(cluster, namespace)
    try:
        yield creator
    finally:
        for connection in creator.connections:
            connection.close()
