"""A rollout storm: pods as fast as the API server takes them."""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.apiserver.admissions import durations
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import Injector
from tests.apiserver.objects import SIDECAR, generated, init_names, pod

WEBHOOK = "inject.envoy-sidecar.io"
PODS = 2_000
CLIENTS = 16


class Creator:
    """Creates pods in one namespace, each thread over a connection of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.path = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self.local = threading.local()
        self.connections: list[http.client.HTTPSConnection] = []

    def connection(self) -> http.client.HTTPSConnection:
        if not hasattr(self.local, "connection"):
            address = urlsplit(self.cluster.url)
            context = ssl.create_default_context(cafile=self.cluster.ca)
            self.local.connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=context)
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

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def test_every_pod_of_a_storm_comes_out_injected(
    kubernetes: Cluster, webhook: Injector, shop: str, report: Callable[[str], None]
) -> None:
    before, cpu, began = durations(kubernetes, WEBHOOK), webhook.cpu_seconds(), time.monotonic()
    one = generated(pod(labels={"app": "cart"}), "cart-")  # as a ReplicaSet names them
    creator = Creator(kubernetes, shop)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(creator.create, [one] * PODS))
    creator.close()
    rate, seen = PODS / (time.monotonic() - began), durations(kubernetes, WEBHOOK) - before
    cost = (webhook.cpu_seconds() - cpu) / seen.calls
    pods = kubernetes.get("pods", "-n", shop)["items"]
    report(f"{PODS} pods by {CLIENTS} clients at {rate:.0f}/s, {seen.calls} calls to {len(webhook.replicas)} replicas")
    report(f"the API server's own duration of a call: p50 {show(seen.quantile(0.5))}, p99 {show(seen.quantile(0.99))}")
    report(f"CPU of the webhook per call: {show(cost)}")
    assert set(answers) == {201}
    assert len(pods) == PODS
    assert all(SIDECAR in init_names(one) for one in pods)


def show(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def test_the_load_is_shared_by_all_replicas(webhook: Injector) -> None:
    assert all(replica.requests() > 0 for replica in webhook.replicas)
