"""inject(): the whole story in one function; read this first.

A pod comes in as JSON; out comes what becomes of it, with the patch. No I/O, no clock, nothing remembered but
pure results. "Already injected" is no reason to leave a pod alone: a marker is never trusted. The pod is rendered
from what its author wrote, and whatever differs from that is repaired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from webhook import patch, policy, sidecar
from webhook import pod as pods
from webhook.annotations import Annotation, Choices
from webhook.pod import Pod
from webhook.policy import Inject, Level, Reject, RejectReason, Skip, SkipReason
from webhook.settings import Settings
from webhook.sidecar import Parts

__all__ = ["Injected", "Level", "Outcome", "Rejected", "Skipped", "Unchanged", "inject"]


@dataclass(frozen=True, slots=True)
class Injected:
    """The pod gets this JSON Patch (UTF-8): parts `added` to a plain pod, or `repaired` in one that has some."""

    decision: ClassVar[str] = "injected"
    reason: Literal["added", "repaired"]
    patch: bytes
    choices: Choices
    given: tuple[Annotation, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The pod already is exactly what we would make of it."""

    decision: ClassVar[str] = "unchanged"
    reason: ClassVar[str] = "up_to_date"
    choices: Choices
    given: tuple[Annotation, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """The pod stays as it is."""

    decision: ClassVar[str] = "skipped"
    reason: SkipReason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """The pod is refused for its author to mend."""

    decision: ClassVar[str] = "rejected"
    reason: RejectReason
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


Outcome = Injected | Unchanged | Skipped | Rejected


def inject(raw: bytes | msgspec.Raw, level: Level, settings: Settings) -> Outcome:
    """What becomes of the pod in `raw` (JSON), in a namespace that enforces PodSecurity `level`.

    Raises MalformedReview if it is no Pod.
    """
    return inject_decoded(pods.decode(raw), raw, level, settings)


def inject_decoded(received: Pod, raw: bytes | msgspec.Raw, level: Level, settings: Settings) -> Outcome:
    """The same for a caller that has looked into the pod already: `received` is what `pods.decode(raw)` gave."""
    pod, document = received, None
    if pods.VERSION_ANNOTATION in pod.annotations:
        document = pods.decode_whole(raw)
        pod = msgspec.convert(pods.without_parts(document), Pod)
    match policy.decide(pod, level, settings):
        case Inject(choices, given, warnings):
            service = pods.service_name(pod)
            if document is None:
                shape = _shape(pod)
                # Nothing has validated the container's name yet, and what is kept must stay small.
                add = _add if pods.is_label_value(shape.default_container or "x") else _add.__wrapped__
                return Injected("added", add(choices, service, shape, settings), choices, given, warnings)
            parts = sidecar.render(choices, service, settings)
            operations = _operations(parts, pod.spec.containers[0].name, document)
            if not operations:
                return Unchanged(choices, given, warnings)
            return Injected("repaired", msgspec.json.encode(operations), choices, given, warnings)
        case Skip(reason, warnings):
            return _leave(received, reason, warnings)
        case Reject(reason, problems, warnings):
            return Rejected(reason, problems, warnings)


def _leave(pod: Pod, reason: SkipReason, warnings: tuple[str, ...]) -> Outcome:
    """A pod that gets no sidecar must not run one of somebody else's making under our name."""
    ours = [container.name for container in pods.all_containers(pod) if container.name in pods.CONTAINERS]
    if ours and reason is not SkipReason.MIRROR_POD:
        problem = f"no sidecar is added ({reason}: {reason.sentence}), but the pod has {' and '.join(ours)}; remove it"
        return Rejected(RejectReason.FOREIGN_PARTS, (problem,), warnings)
    return Skipped(reason, warnings)


class _Shape(NamedTuple):
    """All that the patch of a pod without parts depends on, apart from the parts."""

    labels: bool
    annotations: bool
    init_containers: bool
    volumes: bool
    default_container: str | None


def _shape(pod: Pod) -> _Shape:
    chosen = pods.DEFAULT_CONTAINER_ANNOTATION in pod.annotations
    return _Shape(
        labels=pod.metadata.labels is not None,
        annotations=pod.metadata.annotations is not None,
        init_containers=pod.spec.init_containers is not None,
        volumes=pod.spec.volumes is not None,
        default_container=None if chosen else pod.spec.containers[0].name,
    )


@lru_cache(maxsize=256)
def _add(choices: Choices, service: str, shape: _Shape, settings: Settings) -> bytes:
    """The patch for a pod that has none of the parts: the pods of one workload share it, and 256 take 2 MB."""
    metadata: dict[str, Any] = {}
    spec: dict[str, Any] = {"containers": []}
    if shape.labels:
        metadata["labels"] = {}
    if shape.annotations:
        chosen = {pods.DEFAULT_CONTAINER_ANNOTATION: ""} if shape.default_container is None else {}
        metadata["annotations"] = chosen
    if shape.init_containers:
        spec["initContainers"] = []
    if shape.volumes:
        spec["volumes"] = []
    parts = sidecar.render(choices, service, settings)
    return msgspec.json.encode(_operations(parts, shape.default_container or "", {"metadata": metadata, "spec": spec}))


def _operations(parts: Parts, default_container: str, document: Mapping[str, Any]) -> list[patch.Operation]:
    """What turns `document` into the pod with exactly these parts; nothing, if it is that already."""
    metadata, spec = document["metadata"], document["spec"]
    annotations = metadata.get("annotations")
    wanted = dict(parts.annotations)
    settle = partial(
        sidecar.settle,
        same_settings=(annotations or {}).get(pods.SETTINGS_ANNOTATION) == wanted[pods.SETTINGS_ANNOTATION],
    )
    if pods.DEFAULT_CONTAINER_ANNOTATION not in (annotations or {}):
        wanted[pods.DEFAULT_CONTAINER_ANNOTATION] = default_container
    return [
        *patch.set_keys("/metadata/labels", metadata.get("labels"), parts.labels),
        *patch.set_keys("/metadata/annotations", annotations, wanted),
        *patch.arrange(
            "/spec/initContainers",
            spec.get("initContainers"),
            first=parts.first_init_containers,
            last=parts.last_init_containers,
            ours=pods.CONTAINERS,
            settle=settle,
        ),
        *patch.arrange(
            "/spec/containers",
            spec.get("containers"),
            first=parts.first_containers,
            ours=pods.CONTAINERS,
            settle=settle,
        ),
        *patch.keep("/spec/volumes", spec.get("volumes"), parts.volumes, ours=pods.VOLUMES),
    ]
