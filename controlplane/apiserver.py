"""One request to the API server and its answer, over the `kubernetes` package's transport: credentials, proxies, TLS.

KubeError            the API server did not do it; `reason` is of a closed set
"""

import json
import socket
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal

import urllib3
import yaml
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

TIMEOUT = (5, 15)  # seconds: to connect, and between two parts of an answer
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a peer that is gone is noticed in 40 s
MAX_MESSAGE = 300  # characters of what the API server says
JSON, APPLY = "application/json", "application/apply-patch+yaml"


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
    except (TypeError, LookupError, AttributeError, yaml.YAMLError):  # what the package makes of other files
        raise KubeError("unreachable", f"no credentials: {kubeconfig} is no kubeconfig") from None
    return ApiClient(configuration)


def socket_options() -> list[tuple[int, int, int]]:
    """Those of a connection that asks whether its peer is there; some systems have other names for that."""
    timing = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in KEEPALIVE.items() if name in _NAMES]
    return [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *timing]


_NAMES = frozenset(dir(socket))


def ask(
    client: ApiClient,
    method: str,
    path: str,
    query: Mapping[str, str] = MappingProxyType({}),
    body: object = None,
    *,
    content_type: str = JSON,
    accept: str = JSON,
    timeout: tuple[float, float] = TIMEOUT,
) -> RESTResponse:
    """One request; its answer, unread. Empty parameters of the query are left out.

    Raises KubeError if there is no answer, or none below 400.
    """
    try:
        request = client.param_serialize(
            method,
            path,
            query_params=[item for item in query.items() if item[1]],
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = client.call_api(*request, _request_timeout=timeout)
        if answer.status < HTTPStatus.BAD_REQUEST:
            return answer
        status, said = answer.status, answer.response.data
    except (urllib3.exceptions.HTTPError, OSError, ConfigException, ApiException) as error:
        raise KubeError("unreachable", f"{method} {path}: {type(error).__name__}") from None
    raise KubeError(reason_of(status), f"{method} {path}: {status}: {_message(said)}")


def read(answer: RESTResponse) -> Object:
    """The object that the answer holds.

    Raises KubeError: `unreachable` if it breaks off, `malformed` if it is no object.
    """
    try:
        found = parse(answer.response.data)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KubeError("unreachable", f"half an answer: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise KubeError("malformed", "no object")
    return found


def parse(text: bytes) -> object:
    """What the JSON says. Raises KubeError, `malformed`."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise KubeError("malformed", "no JSON") from None
    return found


def reason_of(status: int) -> Reason:
    """What a status of HTTP, 400 or more, means to whoever asked."""
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


def _message(said: bytes) -> str:
    try:
        return str(json.loads(said)["message"])[:MAX_MESSAGE]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
