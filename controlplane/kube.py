"""Kubernetes, as far as it concerns us: raw JSON over the `kubernetes` package's transport.

KubeError            the API server did not do it; `reason` is of a closed set

Collections are listed and watched. The rights are few: outside the install namespace ConfigMaps are created, patched
and deleted, never read, and of Pods and Nodes only the metadata is looked at. So a copy is written by server-side
apply, which changes nothing where it is there.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal, get_args

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTResponse
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config
from urllib3.connection import HTTPConnection

Object = dict[str, Any]
# `malformed`: what answers is no API server, or a bug; `short`: a watch that ends as soon as it has begun.
Reason = Literal["unreachable", "server", "conflict", "refused", "missing", "gone", "malformed", "short"]
Told = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]

FIELD_MANAGER = "envoy-sidecar-controlplane"
TIMEOUT = (5, 15)  # seconds: to connect, and between two parts of an answer
REVIEW_TIMEOUT = (2, 5)  # the same of a question that a proxy waits for
# Then it is asked for anew: before what stands between us takes the connection for idle, mostly after a minute; and so
# that one which died is not taken for quiet for longer than this and the time to read.
WATCH_SECONDS = 50
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a peer that is gone is noticed in 40 s
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
    configuration.socket_options = socket_options()
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
        reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
        match _read(self._ask("POST", reviews, {}, body, timeout=REVIEW_TIMEOUT)):
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
        accept = f"{_METADATA.format('')},{_JSON}" if of.metadata else _JSON
        timeout = (TIMEOUT[0], WATCH_SECONDS + TIMEOUT[1])
        answer = self._ask("GET", of.path, query, accept=accept, timeout=timeout)
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
        accept = _METADATA.format("List") if of.metadata else _JSON
        page = _read(self._ask("GET", of.path, query, accept=accept))
        match page:
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
    match _json(line):
        case {"type": "ERROR", "object": {"code": int(code)} as status}:
            raise KubeError(_reason(code), f"watch: {status.get('message', 'no reason given')}")
        case {"type": str(told), "object": {"metadata": {"resourceVersion": str(version)}} as found} if told in _TOLD:
            return Event(told, found, version)
        case _:
            raise KubeError("malformed", "watch: no event")


_TOLD: tuple[Told, ...] = get_args(Told)


def socket_options() -> list[tuple[int, int, int]]:
    """Those of a connection that asks whether its peer is there; some systems have other names for that."""
    timing = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in KEEPALIVE.items() if name in _NAMES]
    return [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *timing]


_NAMES = frozenset(dir(socket))


def _config_map(namespace: str, name: str) -> str:
    return f"{NAMESPACES}/{namespace}/configmaps/{name}"


def _read(answer: RESTResponse) -> Object:
    try:
        found = _json(answer.response.data)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KubeError("unreachable", f"half an answer: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise KubeError("malformed", "no object")
    return found


def _json(text: bytes) -> object:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise KubeError("malformed", "no JSON") from None
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
