"""Workloads: where each kind keeps its pod template, and the Pod that its controller would create from it.

Works on raw JSON and cuts the template out without building the rest. Refuses to judge: a template that no
API server would take is handed on as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from webhook.errors import MalformedReview

Path = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind: `template` leads from the object to its pod template, `owner` is what will own the pods."""

    api_version: str
    template: Path = ("spec", "template")
    owner: tuple[str, str] | None = None  # apiVersion and kind; None: the object itself


KINDS: Mapping[str, Workload] = {
    "Pod": Workload("v1", ()),
    "Deployment": Workload("apps/v1", owner=("apps/v1", "ReplicaSet")),
    "StatefulSet": Workload("apps/v1"),
    "DaemonSet": Workload("apps/v1"),
    "ReplicaSet": Workload("apps/v1"),
    "Job": Workload("batch/v1"),
    "CronJob": Workload("batch/v1", ("spec", "jobTemplate", "spec", "template"), ("batch/v1", "Job")),
}

_FROM_TEMPLATE = ("labels", "annotations", "finalizers")  # what kube-controller-manager copies to a pod

_MAPPING = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)  # null stands for an empty one, as in Go
_STRING = msgspec.json.Decoder(str | None)


def find(api_version: object, kind: object) -> Workload | None:
    """The workload that these two fields of an object name, or None for anything that makes no pods."""
    known = KINDS.get(kind) if isinstance(kind, str) else None
    return known if known is not None and known.api_version == api_version else None


def pod(raw: bytes | msgspec.Raw) -> bytes | None:
    """The JSON of the Pods that the workload in `raw` (JSON) leads to; None for a kind that makes no pods.

    A Pod is returned as it is. The others get the template's labels, annotations, finalizers and spec, and
    `ownerReferences` and `generateName` as their controller would write them.
    Raises MalformedReview, with the path, where a mapping or string is expected and something else stands.
    """
    try:
        fields = _mapping(raw, "")
        known = find(_string(fields, "apiVersion"), _string(fields, "kind"))
        if known is None:
            return None
        return _from_template(known, fields) if known.template else msgspec.json.encode(fields)
    except RecursionError:
        raise MalformedReview("the object is nested too deeply") from None


def _from_template(known: Workload, fields: Mapping[str, msgspec.Raw]) -> bytes:
    metadata = _mapping(fields.get("metadata", b"null"), "metadata")
    name = _string(metadata, "name") or _string(metadata, "generateName").rstrip("-")
    template = fields
    for depth, step in enumerate(known.template, start=1):
        template = _mapping(template.get(step, b"null"), ".".join(known.template[:depth]))
    own = _mapping(template.get("metadata", b"null"), ".".join((*known.template, "metadata")))
    api_version, kind = known.owner or (_string(fields, "apiVersion"), _string(fields, "kind"))
    owner = {"apiVersion": api_version, "kind": kind, "name": name, "controller": True}
    kept = {key: own[key] for key in _FROM_TEMPLATE if key in own}
    kept |= {key: metadata[key] for key in ("namespace",) if key in metadata}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"{name}-", **kept, "ownerReferences": [owner]},
    }
    return msgspec.json.encode(pod | {key: template[key] for key in ("spec",) if key in template})


def _mapping(raw: bytes | msgspec.Raw, path: str) -> Mapping[str, msgspec.Raw]:
    return _decode(_MAPPING, raw, path) or {}


def _string(fields: Mapping[str, msgspec.Raw], key: str) -> str:
    return _decode(_STRING, fields.get(key, b"null"), key) or ""


def _decode(decoder: "msgspec.json.Decoder[T]", raw: bytes | msgspec.Raw, path: str) -> T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReview(f"{path or 'the object'}: {error}") from None
