"""Kubernetes' objects: the fields that are read, by their types. What else stands in them is skipped."""

from typing import Any, TypeVar

import msgspec

from controlplane.xds.annotations import MAX_SHOWN


class Struct(msgspec.Struct, rename="camel", gc=False):
    """An object of JSON; a field of the wrong type raises msgspec.ValidationError with its path."""


class Metadata(Struct):
    """What every object has."""

    name: str
    namespace: str = "default"
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Port(Struct):
    """A port of a Service or of a slice."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class ServiceSpec(Struct):
    """What a Service is to be."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[Port] | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None
    session_affinity: str | None = None


class Service(Struct):
    """v1 Service."""

    metadata: Metadata
    spec: ServiceSpec


class Conditions(Struct):
    """How an endpoint is; null means unknown."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Struct):
    """A zone or a node, by name."""

    name: str


class Hints(Struct):
    """Whose callers should prefer an endpoint."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class Reference(Struct):
    """What is behind an endpoint."""

    kind: str | None = None
    name: str | None = None


class Endpoint(Struct):
    """One of a slice."""

    addresses: list[str]
    conditions: Conditions | None = None
    target_ref: Reference | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None


class Slice(Struct):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata
    address_type: str
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None


class Object(Struct):
    """Any object, of which only the metadata matters."""

    metadata: Metadata


class PodSpec(Struct):
    """Where a pod runs."""

    node_name: str | None = None


class Pod(Struct):
    """A v1 Pod: from the API server its metadata only, from a file with its spec."""

    metadata: Metadata
    spec: PodSpec | None = None


class Variable(Struct):
    """One of a container's environment."""

    name: str
    value: str | None = None


class Container(Struct):
    """What it is told."""

    name: str
    env: list[Variable] | None = None


class Containers(Struct):
    """What runs in a pod, and on which network."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    host_network: bool | None = None


class WholePod(Struct):
    """The same Pod from a file, as far as its sidecar is concerned."""

    metadata: Metadata
    spec: Containers


_T = TypeVar("_T")


def convert(raw: Any, form: type[_T]) -> _T:
    """An object of JSON, without the annotations that are no text. Raises msgspec.ValidationError, RecursionError."""
    if wrong := unquoted(raw):
        left = {key: value for key, value in _annotations(raw).items() if key not in wrong}
        raw = {**raw, "metadata": {**raw["metadata"], "annotations": left}}
    return msgspec.convert(raw, form)


def unquoted(raw: Any) -> dict[Any, str]:
    """Annotations that are no text, which only a file can have, and what is wrong with each."""
    why = "is no text, as 3 and off are none without quotes: put it in quotes; until then it is ignored"
    return {
        key: f"{f'{key[:MAX_SHOWN]}: the value' if isinstance(key, str) else 'metadata.annotations: a name'} {why}"
        for key, value in _annotations(raw).items()
        if not (isinstance(key, str) and isinstance(value, str))
    }


def _annotations(raw: Any) -> dict[Any, Any]:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    found = metadata.get("annotations") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}
