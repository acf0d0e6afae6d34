"""Reads and writes the objects that are ours, by compare-and-set; knows nothing of certificates.

KubeError            the API server did not do it; `reason` is of a closed set
└── ConflictError    somebody else wrote first, or the object is gone: read again

Raw JSON over the `kubernetes` package's transport, which has the credentials, proxies and TLS. No error of ours says
more than a status about a Secret, and none is chained to one of the package, which holds the whole answer.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Literal, get_args
from urllib.parse import quote

import urllib3
import yaml
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTResponse
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config

from certs import objects
from certs.objects import CONFIGURATIONS, Installation, Kind, Target
from certs.reading import Object, Reading

FIELD_MANAGER = "envoy-sidecar-certs"
TIMEOUT = (5, 15)  # seconds: to connect, and between two parts of an answer
WATCH_SECONDS = 240  # then it is asked for anew, so that a connection that died unnoticed is missed no longer
PAGE = 500  # objects of one list
MAX_MESSAGE = 300  # characters of what the API server says
HTTP_ERROR, NOT_FOUND = 400, 404
_STATUSES = frozenset(HTTPStatus)
Reason = Literal["unreachable", "server", "forbidden", "missing", "refused", "unsettled"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_PATHS: dict[Kind, str] = {
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "MutatingWebhookConfiguration": f"{_ADMISSION}/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": f"{_ADMISSION}/validatingwebhookconfigurations",
}
_OPTED_IN = {"labelSelector": "=".join(objects.OPT_IN)}
_CONFIG_MAPS = {"fieldSelector": f"metadata.name={objects.CONFIG_MAP}"}
# Whatever can put us out of step with what is published. A Secret is looked at every minute.
WATCHED: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("/api/v1/namespaces", _OPTED_IN),
    ("/api/v1/configmaps", _CONFIG_MAPS),
    *((_PATHS[one.kind], {"fieldSelector": f"metadata.name={one.name}"}) for one in CONFIGURATIONS),
)


class KubeError(Exception):
    """The API server could not be asked, or did not do what it was asked."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConflictError(KubeError):
    """What was read is not what is there."""


def connect(kubeconfig: str | None = None, context: str | None = None) -> ApiClient:
    """A client as this pod, or as a kubeconfig says; that of the environment if neither is there.

    Raises KubeError, `unreachable`, if there are no usable credentials.
    """
    configuration = Configuration()
    configuration.retries = 1
    try:
        if kubeconfig is None and context is None:
            try:
                load_incluster_config(configuration)
                return ApiClient(configuration)
            except ConfigException:
                pass  # not in a pod
        load_kube_config(kubeconfig, context, configuration, persist_config=False)
    except (ConfigException, OSError, ValueError) as error:
        raise KubeError("unreachable", f"no credentials: {error}; outside a pod, use --kubeconfig") from None
    except (TypeError, LookupError, AttributeError, yaml.YAMLError):  # what the package makes of other files
        raise KubeError("unreachable", f"no credentials: {kubeconfig or 'KUBECONFIG'} is no kubeconfig") from None
    return ApiClient(configuration)


class Kube:
    """The cluster, as far as it concerns certificates."""

    def __init__(self, api: ApiClient, installation: Installation) -> None:
        self._api, self._installation = api, installation

    def read(self) -> Reading:
        """Everything. The CA Secret comes last: see rotation. Raises KubeError."""
        installation, at = self._installation, None
        found: dict[Target, Object] = {}
        for target in (*installation.leaves, *CONFIGURATIONS):
            one, when = self._get(target)
            at = at or when
            if one:
                found[target] = one
        for one in self._list("/api/v1/configmaps", _CONFIG_MAPS):
            found[installation.config_map(one["metadata"]["namespace"])] = one
        namespaces = {
            one["metadata"]["name"]: datetime.fromisoformat(one["metadata"]["creationTimestamp"])
            for one in self._list("/api/v1/namespaces", _OPTED_IN)
            if "deletionTimestamp" not in one["metadata"]
        }
        authority, when = self._get(installation.authority)
        if authority:
            found[installation.authority] = authority
        usual = {name: born for name, born in namespaces.items() if name not in objects.SYSTEM_NAMESPACES}
        return Reading(at or when, found, usual)

    def create(self, target: Target) -> None:
        """Sees to it that the object is there; empty, if it was not. Raises KubeError.

        By server-side apply, which RBAC can limit to a name, and which takes nothing from one that is filled.
        """
        metadata = {"name": target.name, "namespace": target.namespace, "labels": objects.LABELS}
        empty = {"apiVersion": "v1", "kind": target.kind, "metadata": metadata}
        self._send("PATCH", target, empty, "application/apply-patch+yaml", {"force": "true"})

    def fill(self, target: Target, read: Object, content: dict[str, bytes]) -> None:
        """Makes `content` the whole data of what was read. Raises ConflictError if it is not that any more."""
        encode = base64.b64encode if target.kind == "Secret" else bytes
        data = {name: encode(value).decode() for name, value in content.items()}
        changed = {key: value for key, value in read.items() if key not in ("binaryData", "stringData")}
        self._replace("PUT", target, changed | {"data": data})

    def publish(self, target: Target, read: Object, text: bytes) -> None:
        """Makes `text` what is trusted there. Raises ConflictError if the object is not what was read any more."""
        if target.kind == "ConfigMap":
            return self.fill(target, read, {objects.CONFIG_MAP_KEY: text})
        bundle = base64.b64encode(text).decode()
        # Replacing resourceVersion by what was read makes the API server compare: 409 if it has moved on.
        version = {"op": "replace", "path": "/metadata/resourceVersion", "value": read["metadata"]["resourceVersion"]}
        bundles = (
            {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": bundle}
            for number in range(len(read["webhooks"]))
        )
        return self._replace("PATCH", target, [version, *bundles], "application/json-patch+json")

    def watch(self, path: str, query: Mapping[str, str]) -> Iterator[None]:
        """Something for each change, and first for each object; ends now and then. Raises KubeError."""
        # From 0: as far as the API server has come. Without, it waits to be as far as its etcd, which an older etcd
        # does not tell it; then it ends the watch ("Too large resource version") before anything has come.
        query = {**query, "watch": "true", "resourceVersion": "0", "timeoutSeconds": str(WATCH_SECONDS)}
        answer = self._ask("GET", path, query, timeout=(TIMEOUT[0], WATCH_SECONDS + TIMEOUT[1]))
        try:
            for line in answer.response:
                if json.loads(line)["type"] == "ERROR":
                    return
                yield
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
            raise KubeError("unreachable", f"watch of {path}: {_cause(error)}") from None
        finally:
            answer.response.close()

    def _get(self, target: Target) -> tuple[Object | None, datetime]:
        answer = self._ask("GET", _path(target), {}, target=target, absent=True)
        return (None if answer.status == NOT_FOUND else _object(answer)), _date(answer)

    def _list(self, path: str, query: Mapping[str, str]) -> Iterator[Object]:
        following = ""
        while True:
            page = _object(self._ask("GET", path, {**query, "limit": str(PAGE), "continue": following}))
            yield from page["items"]
            following = page["metadata"].get("continue", "")
            if not following:
                return

    def _replace(self, method: str, target: Target, body: object, content_type: str = "application/json") -> None:
        try:
            self._send(method, target, body, content_type)
        except KubeError as error:
            if error.reason == "missing":  # it was there a moment ago
                raise ConflictError("missing", str(error)) from None
            raise

    def _send(
        self,
        method: str,
        target: Target,
        body: object,
        content_type: str,
        query: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        query = {**query, "fieldManager": FIELD_MANAGER}
        self._ask(method, _path(target), query, body, {"Content-Type": content_type}, target)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        target: Target | None = None,
        *,
        absent: bool = False,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> RESTResponse:
        """One request; its answer, unread if it is good. `absent`: that nothing is there is good, too."""
        what = f"{method} {target or path}"
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=[item for item in query.items() if item[1]],
                header_params={"Accept": "application/json", **headers},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._api.call_api(*request, _request_timeout=timeout)
            if answer.status < HTTP_ERROR or (absent and answer.status == NOT_FOUND):
                return answer
            status, said = answer.status, answer.read()
        except (urllib3.exceptions.HTTPError, OSError, ConfigException, ApiException) as error:
            raise KubeError("unreachable", f"{what}: the API server is not reached: {_cause(error)}") from None
        raise _error(status, what, b"" if target and target.kind == "Secret" else said)


def _path(target: Target) -> str:
    return f"{_PATHS[target.kind].format(namespace=quote(target.namespace, safe=''))}/{quote(target.name, safe='')}"


def _object(answer: RESTResponse) -> Object:
    try:
        found: Object = json.loads(answer.read())
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise KubeError("unreachable", f"half an answer: {_cause(error)}") from None
    return found


def _date(answer: RESTResponse) -> datetime:
    """The API server's clock; ours, if something in between took that away."""
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _cause(error: BaseException) -> str:
    """Why the API server was not reached: what the system or TLS says, inside of what urllib3 gave up on."""
    parts = (getattr(error, "reason", None), error.__cause__, *error.args)
    for inner in parts:
        if isinstance(inner, BaseException):
            return _cause(inner)
    return getattr(error, "verify_message", "") or getattr(error, "strerror", None) or type(error).__name__


def _error(status: int, what: str, said: bytes) -> KubeError:
    try:
        message = str(json.loads(said)["message"])[:MAX_MESSAGE]
    except (ValueError, KeyError, TypeError):
        message = ""
    text = f"{what}: {status} {HTTPStatus(status).phrase if status in _STATUSES else ''}: {message}".rstrip(": ")
    match status:
        case 401 | 403:
            return KubeError("forbidden", text)
        case 404:
            return KubeError("missing", text)
        case 409:
            return ConflictError("refused", text)
        case 429:
            return KubeError("server", text)
        case _:
            return KubeError("server" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused", text)
