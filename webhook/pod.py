"""The parts of a Pod that injection reads, and questions over them. Read-only.

The structs name every field that is ever looked at; decoding skips all others without building them, which is
what makes a 128 KB pod cheap, and checks the types of these, so that no later code meets a list where a map
belongs. Whatever is written goes into the patch, never through these types: unknown fields survive.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from webhook.errors import MalformedReview

_T = TypeVar("_T")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_OS_LABEL = "kubernetes.io/os"
_SCHEDULED = re.compile(r"-[0-9]{8,}$", re.ASCII)  # the minute that a CronJob adds to the name of its Job

PREFIX = "envoy-sidecar.io/"
INJECT_LABEL = f"{PREFIX}inject"
INJECTED_LABEL = f"{PREFIX}injected"
VERSION_ANNOTATION = f"{PREFIX}version"
SETTINGS_ANNOTATION = f"{PREFIX}settings-hash"
BOOTSTRAP_ANNOTATION = f"{PREFIX}bootstrap-hash"
PROBES_ANNOTATION = f"{PREFIX}original-probes"
MARKERS = (VERSION_ANNOTATION, SETTINGS_ANNOTATION, BOOTSTRAP_ANNOTATION, PROBES_ANNOTATION)
DEFAULT_CONTAINER_ANNOTATION = "kubectl.kubernetes.io/default-container"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"  # set by the kubelet on the image of a static pod

SIDECAR = "envoy-sidecar"
INIT = "envoy-sidecar-init"
CONTAINERS = (SIDECAR, INIT)
BOOTSTRAP_VOLUME = "envoy-sidecar-bootstrap"
RUN_VOLUME = "envoy-sidecar-run"
NO_TOKEN_VOLUME = "envoy-sidecar-no-token"  # noqa: S105  a name
CA_VOLUME = "envoy-sidecar-ca"
TOKEN_VOLUME = "envoy-sidecar-token"  # noqa: S105  a name
VOLUMES = (BOOTSTRAP_VOLUME, RUN_VOLUME, NO_TOKEN_VOLUME, CA_VOLUME, TOKEN_VOLUME)


class _Read(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    pass


class OwnerReference(_Read, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Metadata(_Read, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class Capabilities(_Read, frozen=True):
    add: list[str] | None = None


class SecurityContext(_Read, frozen=True):
    """`securityContext` of a pod or of a container: the fields of both."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None
    supplemental_groups: list[int] | None = None
    privileged: bool | None = None
    capabilities: Capabilities | None = None


class Resources(_Read, frozen=True):
    requests: dict[str, str | int | float] | None = None
    limits: dict[str, str | int | float] | None = None


class ContainerPort(_Read, frozen=True):
    container_port: int
    protocol: str = "TCP"
    name: str = ""


class VolumeMount(_Read, frozen=True):
    name: str


class Action(_Read, frozen=True):
    """`tcpSocket` or `httpGet` of a probe: the fields of both."""

    port: int | str = 0
    host: str = ""


class Probe(_Read, frozen=True):
    tcp_socket: Action | None = None
    http_get: Action | None = None
    timeout_seconds: int = 1


class Container(_Read, frozen=True):
    name: str
    ports: list[ContainerPort] | None = None
    resources: Resources | None = None
    security_context: SecurityContext | None = None
    volume_mounts: list[VolumeMount] | None = None
    restart_policy: str | None = None
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None


class Volume(_Read, frozen=True):
    name: str


class Os(_Read, frozen=True):
    name: str = ""


class Requirement(_Read, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


_WINDOWS = Requirement(_OS_LABEL, "In", ["windows"])


class NodeSelectorTerm(_Read, frozen=True):
    match_expressions: list[Requirement] | None = None


class NodeSelector(_Read, frozen=True):
    node_selector_terms: list[NodeSelectorTerm] | None = None


class NodeAffinity(_Read, frozen=True):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class Affinity(_Read, frozen=True):
    node_affinity: NodeAffinity | None = None


class Spec(_Read, frozen=True):
    given_containers: list[Container] | None = msgspec.field(name="containers", default=None)  # Go writes null for none
    init_containers: list[Container] | None = None
    volumes: list[Volume] | None = None
    host_network: bool | None = None
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    os: Os | None = None
    resources: Resources | None = None
    security_context: SecurityContext | None = None
    termination_grace_period_seconds: int | None = None

    @property
    def containers(self) -> list[Container]:
        return self.given_containers or []


class Pod(_Read, frozen=True):
    metadata: Metadata
    spec: Spec

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}

    @property
    def init_containers(self) -> list[Container]:
        return self.spec.init_containers or []

    @property
    def owner(self) -> OwnerReference | None:
        """The controller that made this pod (`metadata.ownerReferences[].controller`)."""
        return next((owner for owner in self.metadata.owner_references or () if owner.controller), None)


_POD = msgspec.json.Decoder(Pod)
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


def decode(raw: bytes | msgspec.Raw) -> Pod:
    """The Pod in `raw` (JSON).

    Raises MalformedReview with the path of the first field that has the wrong type.
    """
    return _decode(_POD, raw)


def decode_whole(raw: bytes | msgspec.Raw) -> dict[str, Any]:
    """The same Pod with every field, for the pods that already carry parts of ours. Raises MalformedReview."""
    return _decode(_DOCUMENT, raw)


def _decode(decoder: "msgspec.json.Decoder[_T]", raw: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(f"the object is no Pod: {error}") from None


def all_containers(pod: Pod) -> Iterator[Container]:
    """The init containers, then the others, in the pod's order."""
    yield from pod.init_containers
    yield from pod.spec.containers


def needs_whole(pod: Pod) -> bool:
    """Whether more must be known of the pod than the fields above: parts of ours, or of a probe that is rewritten."""
    if VERSION_ANNOTATION in pod.annotations:
        return True
    for containers in (pod.spec.init_containers, pod.spec.given_containers):
        for container in containers or ():
            for probe in (container.startup_probe, container.readiness_probe, container.liveness_probe):
                if probe is not None and probe.tcp_socket is not None:
                    return True
    return False


def without_parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The raw pod minus our parts: what its author wrote. The default container stays; it may be his."""
    metadata = {
        **document["metadata"],
        "labels": _without(document["metadata"].get("labels"), (INJECTED_LABEL,)),
        "annotations": _without(document["metadata"].get("annotations"), MARKERS),
    }
    spec = {
        **document["spec"],
        "containers": _unnamed(document["spec"].get("containers"), CONTAINERS),
        "initContainers": _unnamed(document["spec"].get("initContainers"), CONTAINERS),
        "volumes": _unnamed(document["spec"].get("volumes"), VOLUMES),
    }
    return {**document, "metadata": metadata, "spec": spec}


def _without(mapping: Mapping[str, str] | None, keys: Iterable[str]) -> dict[str, str]:
    return {key: value for key, value in (mapping or {}).items() if key not in keys}


def _unnamed(items: Iterable[Mapping[str, Any]] | None, names: Iterable[str]) -> list[Mapping[str, Any]]:
    return [item for item in items or () if item["name"] not in names]


def is_windows(pod: Pod) -> bool:
    """`spec.os.name`, or the node label that every kubelet sets: by nodeSelector, or by what nodeAffinity requires."""
    selector = pod.spec.node_selector or {}
    return (
        (pod.spec.os is not None and pod.spec.os.name == "windows")
        or selector.get(_OS_LABEL) == "windows"
        or _requires_windows(pod.spec.affinity)
    )


def _requires_windows(affinity: Affinity | None) -> bool:
    """Any of the terms may choose the node, so all must ask for Windows."""
    required = affinity.node_affinity.required if affinity and affinity.node_affinity else None
    terms = (required.node_selector_terms if required else None) or []
    return bool(terms) and all(_WINDOWS in (term.match_expressions or ()) for term in terms)


def tcp_ports(container: Container) -> Iterator[int]:
    """The TCP ports that the container declares."""
    return (port.container_port for port in container.ports or () if port.protocol == "TCP")


def service_name(pod: Pod) -> str:
    """What the sidecar calls its service: the recommended label, `app`, or the name of the workload.

    Nothing has validated the pod yet, and the name becomes an argument of Envoy's: what is no label value is passed
    over.
    """
    names = [pod.labels.get("app.kubernetes.io/name"), pod.labels.get("app")]
    if pod.owner is not None:
        names.append(_workload_name(pod.owner, pod.labels.get("pod-template-hash", "")))
    names += [pod.metadata.name, (pod.metadata.generate_name or "").rstrip("-")]
    return next((name for name in names if name and _LABEL_VALUE.fullmatch(name)), "unknown")


def _workload_name(owner: OwnerReference, template_hash: str) -> str:
    """The Deployment behind a ReplicaSet, the CronJob behind a Job: one name for all that they make."""
    if owner.kind == "Job":
        return _SCHEDULED.sub("", owner.name)
    return owner.name.removesuffix(f"-{template_hash}")
