"""The requests: reviews as kube-apiserver sends them when the ReplicaSet controller creates a pod, of any size.

Defaulted, with the managers of fields, the mounted API token and the usual tolerations. They grow as real ones do: by
variables, and a container more for each 16 KB.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]

KB = 1024
MARK = "@@@@@"  # where bodies differ
# Above the mesh's own ports, for one stands in a list of ports. A cache with fewer than these 40,000 entries has
# dropped each by the time that it is asked for again.
SERIALS = range(20_000, 60_000)
BYTES_PER_CONTAINER = 16 * KB


@dataclass(slots=True)
class Bodies:
    """Reviews of `size` bytes: the same one again and again, or such as all differ.

    What differs are the uid, names, variables, probes, labels and annotations, among them some that change the
    sidecar: no part of the answer to one is part of the answer to another.
    """

    size: int
    differing: bool
    _parts: list[bytes] = field(init=False, repr=False)
    _serials: Iterator[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parts = _dump(_sized(self.size)).split(MARK.encode())
        self._serials = itertools.cycle(SERIALS) if self.differing else itertools.repeat(SERIALS[0])

    def take(self, count: int) -> Iterator[bytes]:
        """The next `count` bodies; differing ones go on where the last call ended."""
        for serial in itertools.islice(self._serials, count):
            yield (b"%d" % serial).join(self._parts)


def _dump(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()  # as Go writes it


def _sized(size: int) -> Document:
    """A review of exactly `size` bytes."""
    containers = 1 + size // BYTES_PER_CONTAINER
    bare, one = (len(_dump(_review(containers, variables, ""))) for variables in (0, 1))
    if size < bare:
        raise ValueError(f"a review of {size} bytes: the smallest that the API server sends here has {bare}")
    variables = (size - bare) // (one - bare)
    missing = size - len(_dump(_review(containers, variables, "")))
    return _review(containers, variables, "x" * missing)


def _review(containers: int, variables: int, note: str) -> Document:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": f"0df28fbd-5f5f-4e8a-bc74-36e6bb2{MARK}",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "5c0fe3ac-9d33-4f0c-8a52-3b3df6a1e1f0",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": ["JTI=8a5cf5d3-55a5-4f4e-9b1a-9e3c4a6a2f6e"]},
            },
            "object": _pod(containers, variables, note),
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


def _pod(containers: int, variables: int, note: str) -> Document:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": f"orders-{MARK}-6d4cf56db6-",
            "namespace": "shop",
            "creationTimestamp": None,
            "labels": {"app": f"orders-{MARK}", "pod-template-hash": "6d4cf56db6", "team": "payments"},
            "annotations": {
                "envoy-sidecar.io/exclude-outbound-ports": MARK,
                "envoy-sidecar.io/upstreams": f"users-{MARK},stock.warehouse",
                "kubectl.kubernetes.io/restartedAt": "2026-11-25T09:00:00Z",
                "shop.example/revision": MARK,
                "shop.example/note": note,
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"orders-{MARK}-6d4cf56db6",
                    "uid": "8f2a4c1e-7f0e-4d57-a8a4-0d3d1f5c9b6a",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_managed(containers, variables)],
        },
        "spec": _spec(containers, variables),
        "status": {},
    }


def _spec(containers: int, variables: int) -> Document:
    return {
        "volumes": [
            {"name": "config", "configMap": {"name": f"orders-{MARK}", "defaultMode": 420}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "kube-api-access-x7k2p", "projected": {"sources": _TOKEN, "defaultMode": 420}},
        ],
        "initContainers": [_container("migrate", 0, 0)],
        "containers": [_container(_name(index), 8080 + index, variables) for index in range(containers)],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 60,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "orders",
        "serviceAccount": "orders",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001},
        "schedulerName": "default-scheduler",
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }


def _name(index: int) -> str:
    return f"app-{index}" if index else "app"


def _container(name: str, port: int, variables: int) -> Document:
    """One of the pod's containers; with a port, it has probes on it."""
    probe = {
        "httpGet": {"path": f"/healthz/{MARK}", "port": "http", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    serving = {
        "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
        "livenessProbe": probe,
        "readinessProbe": probe,
    }
    return {
        "name": name,
        "image": f"registry.example/shop/{name}:1.{MARK}",
        **(serving if port else {}),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            *({"name": _variable(index), "value": _VALUE} for index in range(variables)),
        ],
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [
            {"name": "config", "readOnly": True, "mountPath": "/etc/orders"},
            {"name": "scratch", "mountPath": "/tmp"},
            {
                "name": "kube-api-access-x7k2p",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            },
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False},
    }


def _variable(index: int) -> str:
    return f"UPSTREAM_{index:04}_URL"


_VALUE = f"https://users-{MARK}.shop.svc.cluster.local:8443/v2?region=eu-west-1"

_TOKEN = [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {
        "downwardAPI": {
            "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
        }
    },
]


def _managed(containers: int, variables: int) -> Document:
    """Who set what (metadata.managedFields): about a third of a real pod."""
    metadata = {
        "f:generateName": {},
        "f:labels": _fields("app", "pod-template-hash", "team"),
        "f:annotations": _fields("envoy-sidecar.io/upstreams", "shop.example/revision"),
        "f:ownerReferences": {".": {}, 'k:{"uid":"8f2a4c1e-7f0e-4d57-a8a4-0d3d1f5c9b6a"}': {}},
    }
    spec = {
        "f:containers": {f'k:{{"name":"{_name(i)}"}}': _managed_container(variables) for i in range(containers)},
        **_fields("dnsPolicy", "restartPolicy", "schedulerName", "securityContext", "terminationGracePeriodSeconds"),
    }
    return {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-25T09:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": metadata, "f:spec": spec},
    }


def _managed_container(variables: int) -> Document:
    env = {f'k:{{"name":"{_variable(index)}"}}': _fields("name", "value") for index in range(variables)}
    return {"f:env": {".": {}, **env}, **_fields("image", "imagePullPolicy", "name", "ports", "resources")}


def _fields(*names: str) -> Document:
    return {".": {}, **{f"f:{name}": {} for name in names}}
