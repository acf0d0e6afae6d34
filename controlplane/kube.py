"""Kubernetes, as far as it concerns us: what is asked of it, in raw JSON.

Collections are listed and watched. The rights are few: outside the install namespace ConfigMaps are created, patched
and deleted, never read, and of Pods and Nodes only the metadata is looked at. So a copy is written by server-side
apply, which changes nothing where it is there.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import urllib3
from kubernetes.client.api_client import ApiClient

from controlplane import apiserver
from controlplane.apiserver import APPLY, JSON, KubeError, Object

Told = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]

FIELD_MANAGER = "envoy-sidecar-controlplane"
REVIEW_TIMEOUT = (2, 5)  # seconds, as `apiserver.TIMEOUT`, of a question that a proxy waits for
# Then a watch is begun anew: before what stands between us takes the connection for idle, mostly after a minute; and so
# that one which died is not taken for quiet for longer than this and the time to read.
WATCH_SECONDS = 50
PAGE = 500  # objects of one list
NAMESPACES, PODS = "/api/v1/namespaces", "/api/v1/pods"
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Collection:
    """Objects of one kind in all namespaces; `metadata` means that nothing else of them is asked for."""

    path: str
    selector: str = ""
    metadata: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch told. A `BOOKMARK` has nothing but the version that it has come to."""

    type: Told
    object: Object
    version: str


@dataclass(frozen=True, slots=True)
class Kube:
    """One cluster. Every method raises KubeError."""

    api: ApiClient

    def get(self, namespace: str, name: str) -> Object | None:
        """A ConfigMap; None if there is none."""
        try:
            return self._object("GET", _config_map(namespace, name))
        except KubeError as error:
            if error.reason == "missing":
                return None
            raise

    def config_maps(self, namespace: str, selector: str) -> Iterator[Object]:
        """The ConfigMaps of a namespace that a label selector picks."""
        return self._list(Collection(f"{NAMESPACES}/{namespace}/configmaps", selector))

    def namespaces(self, selector: str) -> Iterator[Object]:
        """The metadata of the namespaces that a label selector picks."""
        return self._list(Collection(NAMESPACES, selector, metadata=True))

    def pods(self, selector: str) -> Iterator[Object]:
        """The metadata of the pods of all namespaces that a label selector picks."""
        return self._list(Collection(PODS, selector, metadata=True))

    def apply(self, config_map: Object) -> None:
        """Makes the ConfigMap be there, with this content."""
        metadata = config_map["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        self._object("PATCH", _config_map(metadata["namespace"], metadata["name"]), query, config_map, APPLY)

    def replace(self, config_map: Object) -> None:
        """Writes the ConfigMap; reason `conflict` if it is not of the resourceVersion that it says any more."""
        metadata = config_map["metadata"]
        query = {"fieldManager": FIELD_MANAGER}
        self._object("PUT", _config_map(metadata["namespace"], metadata["name"]), query, config_map)

    def delete(self, namespace: str, name: str) -> None:
        """Makes the ConfigMap be gone."""
        try:
            self._object("DELETE", _config_map(namespace, name))
        except KubeError as error:
            if error.reason != "missing":
                raise

    def review(self, token: str, audience: str) -> Object:
        """The status of a TokenReview: whose token it is, if it is one for that audience."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
        match apiserver.read(apiserver.ask(self.api, "POST", reviews, body=body, timeout=REVIEW_TIMEOUT)):
            case {"status": dict(status)}:
                return status
            case _:
                raise KubeError("malformed", "a TokenReview without a status")

    def report(self, event: Object) -> None:
        """Writes an Event, unless one of that name is there."""
        try:
            self._object("POST", f"{NAMESPACES}/{event['metadata']['namespace']}/events", body=event)
        except KubeError as error:
            if error.reason != "conflict":
                raise

    def whole(self, of: Collection) -> tuple[list[Object], str]:
        """All objects, and the version to watch from.

        Raises KubeError, `gone` if it took so long that the pages do not belong together any more.
        """
        pages = list(self._pages(of))
        return [found for items, _ in pages for found in items], pages[-1][1]

    def newest(self, of: Collection) -> str:
        """The version of the whole store at this moment, as the API server has it from there."""
        _, version, _ = self._page(of, {"limit": "1"})
        return version

    def events(self, of: Collection, version: str) -> Iterator[Event]:
        """What happens after that version, as it does; ends after a while, to be asked for anew.

        Raises KubeError, `gone` if the API server does not know any more.
        """
        query = {
            "labelSelector": of.selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        accept = f"{_METADATA.format('')},{JSON}" if of.metadata else JSON
        connecting, reading = apiserver.TIMEOUT
        timeout = (connecting, WATCH_SECONDS + reading)
        answer = apiserver.ask(self.api, "GET", of.path, query, accept=accept, timeout=timeout)
        try:
            with closing(answer.response):
                yield from map(_event, answer.response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeError("unreachable", f"watch of {of.path}: {type(error).__name__}") from None

    def _list(self, of: Collection) -> Iterator[Object]:
        for items, _ in self._pages(of):
            yield from items

    def _pages(self, of: Collection) -> Iterator[tuple[list[Object], str]]:
        """The objects of each page, and the version that all of them have."""
        query = {"labelSelector": of.selector, "limit": str(PAGE)}
        while True:
            items, version, query["continue"] = self._page(of, query)
            yield items, version
            if not query["continue"]:
                return

    def _page(self, of: Collection, query: Mapping[str, str]) -> tuple[list[Object], str, str]:
        """Objects, their version, and where those go on that follow."""
        accept = _METADATA.format("List") if of.metadata else JSON
        match apiserver.read(apiserver.ask(self.api, "GET", of.path, query, accept=accept)):
            case {"items": list() | None as items, "metadata": {"resourceVersion": str(version)} as metadata}:
                return items or [], version, str(metadata.get("continue") or "")
            case _:
                raise KubeError("malformed", f"GET {of.path}: no list")

    def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = MappingProxyType({}),
        body: object = None,
        content_type: str = JSON,
    ) -> Object:
        return apiserver.read(apiserver.ask(self.api, method, path, query, body, content_type=content_type))


def _event(line: bytes) -> Event:
    match apiserver.parse(line):
        case {"type": "ERROR", "object": {"code": int(code)} as status}:
            raise KubeError(apiserver.reason_of(code), f"watch: {status.get('message', 'no reason given')}")
        case {"type": str(told), "object": {"metadata": {"resourceVersion": str(version)}} as found} if told in _TOLD:
            return Event(told, found, version)
        case _:
            raise KubeError("malformed", "watch: no event")


_TOLD: tuple[Told, ...] = get_args(Told)


def _config_map(namespace: str, name: str) -> str:
    return f"{NAMESPACES}/{namespace}/configmaps/{name}"
