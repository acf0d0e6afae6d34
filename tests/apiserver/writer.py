"""Many objects, written fast: a few connections that stay open."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3

from tests.apiserver.cluster import Cluster, Object

WRITERS = 8
PATHS = {
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Node": "/api/v1/nodes",
}


@dataclass(frozen=True, slots=True)
class Writer:
    """As cluster-admin. Every method raises AssertionError for what the API server refuses."""

    cluster: Cluster
    pool: urllib3.PoolManager

    @staticmethod
    def of(cluster: Cluster) -> "Writer":
        return Writer(cluster, urllib3.PoolManager(ca_certs=str(cluster.ca), maxsize=WRITERS, block=True))

    def create(self, objects: Iterable[Object]) -> None:
        self._each(lambda one: self._ask("POST", _path(one), one), objects)

    def put(self, objects: Iterable[Object]) -> None:
        """Replaces the objects of these names, as controllers do."""
        self._each(lambda one: self._ask("PUT", f"{_path(one)}/{one['metadata']['name']}", one), objects)

    def patch(self, objects: Iterable[Object]) -> None:
        """Merges each into the object of its name."""
        self._each(lambda one: self._ask("PATCH", f"{_path(one)}/{one['metadata']['name']}", one), objects)

    def delete(self, objects: Iterable[Object]) -> None:
        self._each(lambda one: self._ask("DELETE", f"{_path(one)}/{one['metadata']['name']}", None), objects)

    def _each(self, do: Callable[[Object], None], objects: Iterable[Object]) -> None:
        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(do, objects))

    def _ask(self, method: str, path: str, body: Object | None) -> None:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self.cluster.token}", "Content-Type": content}
        answer = self.pool.request(method, f"{self.cluster.url}{path}", body=json.dumps(body), headers=headers)
        assert answer.status < 300, (method, path, answer.data[:500])


def _path(one: Object) -> str:
    return PATHS[one["kind"]].format(one["metadata"].get("namespace"))
