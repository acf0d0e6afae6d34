"""The baseline: an injecting webhook as tutorials write it, served by uvicorn as it comes.

A pydantic body, a deep copy of the pod, `jsonpatch.make_patch`, base64. Wherever tutorials differ, this one does what
is cheaper: `async def` instead of a thread for each request, raw dicts below the request, appending instead of
inserting (which makes the diff short). It checks nothing, and adds parts of about the size of ours.
"""

import base64
import copy
from typing import Any

import jsonpatch
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class AdmissionRequest(BaseModel):
    uid: str
    kind: dict[str, str]
    resource: dict[str, str]
    name: str | None = None
    namespace: str | None = None
    operation: str
    userInfo: dict[str, Any]  # noqa: N815  as the API spells it
    object: dict[str, Any]
    oldObject: dict[str, Any] | None = None  # noqa: N815
    dryRun: bool | None = None  # noqa: N815


class AdmissionReview(BaseModel):
    apiVersion: str  # noqa: N815
    kind: str
    request: AdmissionRequest


class AdmissionResponse(BaseModel):
    uid: str
    allowed: bool
    patchType: str  # noqa: N815
    patch: str


class ReviewResponse(BaseModel):
    apiVersion: str = "admission.k8s.io/v1"  # noqa: N815
    kind: str = "AdmissionReview"
    response: AdmissionResponse


@app.post("/inject")
async def inject(review: AdmissionReview) -> ReviewResponse:
    pod = review.request.object
    modified = copy.deepcopy(pod)
    add_sidecar(modified)
    patch = jsonpatch.make_patch(pod, modified)
    return ReviewResponse(
        response=AdmissionResponse(
            uid=review.request.uid,
            allowed=True,
            patchType="JSONPatch",
            patch=base64.b64encode(patch.to_string().encode()).decode(),
        )
    )


def add_sidecar(pod: dict[str, Any]) -> None:
    metadata, spec = pod["metadata"], pod["spec"]
    metadata.setdefault("labels", {})["envoy-sidecar.io/injected"] = "true"
    metadata.setdefault("annotations", {})["envoy-sidecar.io/version"] = "0.1.0"
    spec["containers"].append(envoy(metadata["labels"].get("app", "unknown")))
    spec.setdefault("initContainers", []).append(INIT)
    spec.setdefault("volumes", []).extend(VOLUMES)


def envoy(service: str) -> dict[str, Any]:
    return {
        "name": "envoy-sidecar",
        "image": "docker.io/envoyproxy/envoy:distroless-v1.40.0",
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--config-path",
            "/etc/envoy-sidecar/bootstrap.json",
            "--service-node",
            "$(POD_NAME).$(POD_NAMESPACE)",
            "--service-cluster",
            service,
            "--concurrency",
            "2",
            "--log-level",
            "warning",
            "--drain-time-s",
            "45",
        ],
        "env": [
            downward("POD_NAME", "metadata.name"),
            downward("POD_NAMESPACE", "metadata.namespace"),
            downward("POD_IP", "status.podIP"),
            downward("NODE_NAME", "spec.nodeName"),
            downward("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "ports": [{"name": "envoy-metrics", "containerPort": 15090, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "2", "memory": "1Gi"},
        },
        "startupProbe": ready(1, 60),
        "readinessProbe": ready(5, 3),
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": 15021, "scheme": "HTTP"}}},
        "securityContext": security(1337, []),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "envoy-sidecar-bootstrap", "mountPath": "/etc/envoy-sidecar", "readOnly": True},
            {"name": "envoy-sidecar-run", "mountPath": "/run/envoy-sidecar"},
        ],
    }


def downward(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def ready(period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/ready", "port": 15021, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": period,
        "failureThreshold": failures,
    }


def security(user: int, add: list[str]) -> dict[str, Any]:
    return {
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": add},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


INIT = {
    "name": "envoy-sidecar-init",
    "image": "docker.io/istio/proxyv2:1.27.0",
    "imagePullPolicy": "IfNotPresent",
    "args": ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*"],
    "resources": {
        "requests": {"cpu": "10m", "memory": "16Mi"},
        "limits": {"cpu": "200m", "memory": "64Mi"},
    },
    "securityContext": security(0, ["NET_ADMIN", "NET_RAW"]),
    "volumeMounts": [{"name": "envoy-sidecar-run", "mountPath": "/run/envoy-sidecar"}],
}

VOLUMES = [
    {"name": "envoy-sidecar-bootstrap", "configMap": {"name": "envoy-sidecar-bootstrap"}},
    {"name": "envoy-sidecar-run", "emptyDir": {"medium": "Memory"}},
]
