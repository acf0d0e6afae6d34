"""inject(): the whole story in one function; read this first.

A pod comes in as JSON; out comes what becomes of it, with the patch. No I/O, no clock, nothing remembered but
pure results. "Already injected" is no reason to leave a pod alone: a marker is never trusted. The pod is rendered
from what its author wrote, and whatever differs from that is repaired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import msgspec

from webhook import patch, policy, probes, repair, sidecar
from webhook import pod as pods
from webhook.annotations import Annotation
from webhook.choices import Choices
from webhook.pod import Pod
from webhook.policy import Inject, Level, Reject, RejectReason, Skip, SkipReason
from webhook.settings import Settings
from webhook.sidecar import Parts

MAX_KEPT = 8 << 10  # bytes of what is read of a pod; larger ones are seldom, and not kept

__all__ = ["Injected", "Level", "Outcome", "Rejected", "Skipped", "Unchanged", "inject", "inject_decoded"]


@dataclass(frozen=True, slots=True)
class Injected:
    """The pod gets this JSON Patch (UTF-8): parts `added` to a plain pod, or `repaired` in one that has some."""

    decision: ClassVar[str] = "injected"
    reason: Literal["added", "repaired"]
    patch: bytes
    choices: Choices
    given: tuple[Annotation, ...]
    warnings: tuple[str, ...]
    __hash__ = object.__hash__  # by identity: what is made of an outcome is kept, and hashing 6 KB takes 3 µs


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


def inject_decoded(pod: Pod, raw: bytes | msgspec.Raw | None, level: Level, settings: Settings) -> Outcome:
    """The same for a pod that is decoded already; `raw` is None if no more of it is needed (`pod.needs_whole`)."""
    if raw is not None and pods.needs_whole(pod):
        return _inject(pod, pods.decode_whole(raw), level, settings)
    key = msgspec.json.encode(pod)
    return _kept(key, level, settings) if len(key) <= MAX_KEPT else _inject(pod, None, level, settings)


@lru_cache(maxsize=256)
def _kept(key: bytes, level: Level, settings: Settings) -> Outcome:
    """The outcome for all pods of a workload: they are alike in all that is read of them. A few MB in all."""
    return _inject(pods.decode(key), None, level, settings)


def _inject(received: Pod, document: dict[str, Any] | None, level: Level, settings: Settings) -> Outcome:
    """`document` is the whole pod, if more is needed than what is read of it."""
    present = _outline(received) if document is None else document
    author = authored(present)
    pod = received if author is present else msgspec.convert(author, Pod)
    match policy.decide(pod, level, settings):
        case Inject(choices, given, warnings, planned):
            parts = sidecar.render(choices, pods.service_name(pod), settings, planned)
            operations = [
                *probes.changes(present, author, planned),
                *_operations(parts, probes.annotation(author, planned), pod.spec.containers[0].name, present),
            ]
            if not operations:
                return Unchanged(choices, given, warnings)
            reason: Literal["added", "repaired"] = "added" if author is present else "repaired"
            return Injected(reason, msgspec.json.encode(operations), choices, given, warnings)
        case Skip(reason=why, warnings=warnings):
            return _leave(received, why, warnings)
        case Reject(reason=fault, problems=problems, warnings=warnings):
            return Rejected(fault, problems, warnings)


def authored(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The raw pod as its author wrote it; itself, if it does not say that it holds parts of ours."""
    annotations = document["metadata"].get("annotations") or {}
    if pods.VERSION_ANNOTATION not in annotations:
        return document
    return probes.restore(pods.without_parts(document), annotations.get(pods.PROBES_ANNOTATION))


def _leave(pod: Pod, reason: SkipReason, warnings: tuple[str, ...]) -> Outcome:
    """A pod that gets no sidecar must not run one of somebody else's making under our name."""
    ours = [container.name for container in pods.all_containers(pod) if container.name in pods.CONTAINERS]
    if ours and reason is not SkipReason.MIRROR_POD:
        problem = f"no sidecar is added ({reason}: {reason.sentence}), but the pod has {' and '.join(ours)}; remove it"
        return Rejected(RejectReason.FOREIGN_PARTS, (problem,), warnings)
    return Skipped(reason, warnings)


def _outline(pod: Pod) -> dict[str, Any]:
    """As much of a pod without parts of ours as its patch depends on: which lists there are, not what is in them."""
    return {
        "metadata": {"labels": pod.metadata.labels, "annotations": pod.metadata.annotations},
        "spec": {
            "containers": [],
            "initContainers": None if pod.spec.init_containers is None else [],
            "volumes": None if pod.spec.volumes is None else [],
        },
    }


def _operations(
    parts: Parts, kept: str | None, default_container: str, document: Mapping[str, Any]
) -> list[patch.Operation]:
    """What turns `document` into the pod with exactly these parts; nothing, if it is that already.

    `kept` is what the pod keeps of its author's probes.
    """
    metadata, spec = document["metadata"], document["spec"]
    annotations = metadata.get("annotations")
    wanted: dict[str, str | None] = {**parts.annotations, pods.PROBES_ANNOTATION: kept}
    settle = partial(
        repair.settle,
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
