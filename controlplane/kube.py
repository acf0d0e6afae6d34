"""Kubernetes, as far as it concerns us: raw JSON over the `kubernetes` package's transport.

KubeError            the API server did not do it; `reason` is of a closed set

Collections are listed and watched. The rights are few: outside the install namespace ConfigMaps are created, patched
and deleted, never read, and of Pods and Nodes only the metadata is looked at. So a copy is written by server-side
apply, which changes nothing where it is there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTResponse
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config

Object = dict[str, Any]
Reason = Literal["unreachable", "server", "conflict", "refused", "missing", "gone"]

FIELD_MANAGER = "envoy-sidecar-controlplane"
TIMEOUT = (5, 15)  # seconds: to connect, and between two parts of an answer
WATCH_SECONDS = 240  # then it is asked for anew, so that a connection that died unnoticed is missed no longer
PAGE = 500  # objects of one list
MAX_MESSAGE = 300  # characters of what the API server says
NAMESPACES, PODS = "/api/v1/namespaces", "/api/v1/pods"
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
_APPLY, _JSON = "application/apply-patch+yaml", "application/json"


class KubeError(Exception):
    """The API server could not be asked, or did not do what it was asked."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def connect(kubeconfig: str | None = None) -> ApiClient:
    """A client as this pod, or as a kubeconfig says.

    Raises KubeError, `unreachable`, if there are no usable credentials.
    """
    configuration = Configuration()
    configuration.retries = 1
    try:
        if kubeconfig is None:
            load_incluster_config(configuration)
        else:
            load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
    except (ConfigException, OSError, ValueError) as error:
        raise KubeError("unreachable", f"no credentials: {error}; outside a pod, use --kubeconfig") from None
    return ApiClient(configuration)


@dataclass(frozen=True, slots=True)
class Collection:
    """Objects of one kind in all namespaces; `metadata` means that nothing else of them is asked for."""

    path: str
    selector: str = ""
    metadata: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch told. A `BOOKMARK` has nothing but the version that it has come to."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
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
        return self._list(f"{NAMESPACES}/{namespace}/configmaps", {"labelSelector": selector})

    def namespaces(self, selector: str) -> Iterator[Object]:
        """The metadata of the namespaces that a label selector picks."""
        return self._list(NAMESPACES, {"labelSelector": selector}, _METADATA.format("List"))

    def pods(self, selector: str) -> Iterator[Object]:
        """The metadata of the pods of all namespaces that a label selector picks."""
        return self._list(PODS, {"labelSelector": selector}, _METADATA.format("List"))

    def apply(self, config_map: Object) -> None:
        """Makes the ConfigMap be there, with this content."""
        metadata = config_map["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        self._object("PATCH", _config_map(metadata["namespace"], metadata["name"]), query, config_map, _APPLY)

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
        status: Object = self._object("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)["status"]
        return status

    def report(self, event: Object) -> None:
        """Writes an Event, unless one of that name is there."""
        try:
            self._object("POST", f"{NAMESPACES}/{event['metadata']['namespace']}/events", body=event)
        except KubeError as error:
            if error.reason != "conflict":
                raise

    def watch(self, path: str, selector: str) -> Iterator[None]:
        """Something for each change, and for each object that is there at first; ends now and then."""
        query = {"labelSelector": selector, "watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        accept, timeout = _METADATA.format(""), (TIMEOUT[0], WATCH_SECONDS + TIMEOUT[1])
        answer = self._ask("GET", path, query, accept=f"{accept},{_JSON}", timeout=timeout)
        try:
            with closing(answer.response):
                for line in answer.response:
                    if json.loads(line)["type"] == "ERROR":
                        return
                    yield
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
            raise KubeError("unreachable", f"watch of {path}: {type(error).__name__}") from None

    def whole(self, of: Collection) -> tuple[list[Object], str]:
        """All objects, and the version to watch from.

        Raises KubeError, `gone` if it took so long that the pages do not belong together any more.
        """
        accept = _METADATA.format("List") if of.metadata else _JSON
        objects: list[Object] = []
        query = {"labelSelector": of.selector, "limit": str(PAGE)}
        while True:
            page = _read(self._ask("GET", of.path, query, accept=accept))
            objects += page["items"] or ()
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return objects, page["metadata"]["resourceVersion"]

    def events(self, of: Collection, version: str) -> Iterator[Event]:
        """What happens after that version, as it does; ends now and then, to be asked for anew.

        Raises KubeError, `gone` if the API server does not know any more.
        """
        query = {
            "labelSelector": of.selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        accept = f"{_METADATA.format('')},{_JSON}" if of.metadata else _JSON
        timeout = (TIMEOUT[0], WATCH_SECONDS + TIMEOUT[1])
        answer = self._ask("GET", of.path, query, accept=accept, timeout=timeout)
        try:
            with closing(answer.response):
                yield from map(_event, answer.response)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
            raise KubeError("unreachable", f"watch of {of.path}: {type(error).__name__}") from None

    def _list(self, path: str, query: Mapping[str, str], accept: str = _JSON) -> Iterator[Object]:
        following = ""
        while True:
            more = {**query, "limit": str(PAGE), "continue": following}
            page = _read(self._ask("GET", path, more, accept=accept))
            yield from page["items"]
            following = page["metadata"].get("continue", "")
            if not following:
                return

    def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = MappingProxyType({}),
        body: object = None,
        content_type: str = _JSON,
    ) -> Object:
        return _read(self._ask(method, path, query, body, content_type=content_type))

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> RESTResponse:
        """One request; its answer, unread, if it is good."""
        try:
            request = self.api.param_serialize(
                method,
                path,
                query_params=[item for item in query.items() if item[1]],
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self.api.call_api(*request, _request_timeout=timeout)
            if answer.status < HTTPStatus.BAD_REQUEST:
                return answer
            status, said = answer.status, answer.response.data
        except (urllib3.exceptions.HTTPError, OSError, ConfigException, ApiException) as error:
            raise KubeError("unreachable", f"{method} {path}: {type(error).__name__}") from None
        raise KubeError(_reason(status), f"{method} {path}: {status}: {_message(said)}")


def _event(line: bytes) -> Event:
    told = json.loads(line)
    found = told["object"]
    if told["type"] == "ERROR":
        raise KubeError(_reason(int(found.get("code") or 0)), f"watch: {found.get('message', 'no reason given')}")
    return Event(told["type"], found, found["metadata"]["resourceVersion"])


def _config_map(namespace: str, name: str) -> str:
    return f"{NAMESPACES}/{namespace}/configmaps/{name}"


def _read(answer: RESTResponse) -> Object:
    try:
        found: Object = json.loads(answer.response.data)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise KubeError("unreachable", f"half an answer: {type(error).__name__}") from None
    return found


def _message(said: bytes) -> str:
    try:
        return str(json.loads(said)["message"])[:MAX_MESSAGE]
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def _reason(status: int) -> Reason:
    match status:
        case HTTPStatus.NOT_FOUND:
            return "missing"
        case HTTPStatus.CONFLICT:
            return "conflict"
        case HTTPStatus.GONE:
            return "gone"
        case HTTPStatus.TOO_MANY_REQUESTS:
            return "server"
        case _:
            return "server" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
