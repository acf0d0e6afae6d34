"""Builders: the smallest real object, with whatever a test says on top."""

import json
from typing import Any

import jsonpatch

from webhook import injection, settings
from webhook.injection import Injected, Outcome, Rejected
from webhook.policy import Level
from webhook.settings import Settings

PREFIX = "envoy-sidecar.io/"
DEFAULTS = Settings()

Document = dict[str, Any]


def container(name: str = "app", **fields: Any) -> Document:
    return {"name": name, "image": "registry.example/app:1", **fields}


def pod(annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **spec: Any) -> Document:
    """A Pod with one container; annotations without a slash get our prefix."""
    metadata: Document = {"name": "web-1", "namespace": "shop"}
    if annotations is not None:
        metadata["annotations"] = {key if "/" in key else PREFIX + key: value for key, value in annotations.items()}
    if labels is not None:
        metadata["labels"] = labels
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container()], **spec},
    }


def required_nodes(*terms: Document) -> Document:
    """An affinity to nodes that one of these terms chooses, each by operators and values of its labels."""
    written = [
        {"matchExpressions": [{"key": key, "operator": how, "values": values} for key, (how, values) in term.items()]}
        for term in terms
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": written}}
    return {"nodeAffinity": required}


def owned_by(kind: str, document: Document) -> Document:
    owner = {"apiVersion": "batch/v1", "kind": kind, "name": "web", "uid": "1", "controller": True}
    document["metadata"]["ownerReferences"] = [owner]
    return document


def review(document: Document | None = None, **request: Any) -> Document:
    """An AdmissionReview for the CREATE of a pod, as the API server sends it."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "someone", "groups": ["system:authenticated"]},
            "object": pod() if document is None else document,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }


def operator(text: str) -> Settings:
    """The settings in this YAML."""
    return settings.parse(text, "test")


def outcome(document: Document, level: Level = "privileged", by: Settings = DEFAULTS) -> Outcome:
    return injection.inject(json.dumps(document).encode(), level, by)


def injected(document: Document, level: Level = "privileged", by: Settings = DEFAULTS) -> Document:
    """The pod that the API server would store."""
    result = outcome(document, level, by)
    assert isinstance(result, Injected), result
    patched: Document = jsonpatch.apply_patch(document, json.loads(result.patch))
    return patched


def rejection(document: Document, level: Level = "privileged", by: Settings = DEFAULTS) -> Rejected:
    result = outcome(document, level, by)
    assert isinstance(result, Rejected), result
    return result


def named(items: list[Document], name: str) -> Document:
    return next(item for item in items if item["name"] == name)


def sidecar_of(document: Document) -> Document:
    containers = [*document["spec"].get("initContainers", []), *document["spec"]["containers"]]
    return named(containers, "envoy-sidecar")
