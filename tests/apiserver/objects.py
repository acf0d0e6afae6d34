"""Kubernetes objects that the tests of this tier create, as small as the API server accepts."""

from collections.abc import Mapping
from typing import Any

from tests.apiserver.cluster import Object

IMAGE = "registry.example.com/shop/cart:1.2.3"
OPT_IN = {"envoy-sidecar.io/inject": "enabled"}
OPT_OUT = {"envoy-sidecar.io/inject": "disabled"}
SIDECAR, INIT = "envoy-sidecar", "envoy-sidecar-init"


def namespace(name: str, labels: Mapping[str, str] = OPT_IN) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def service_account(of: str) -> Object:
    """The `default` one, which the controller-manager would make."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": of}}


def container(name: str = "app", **fields: Any) -> Object:
    return {"name": name, "image": IMAGE} | fields


def pod(
    name: str = "cart",
    *,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    containers: list[Object] | None = None,
    **spec: Any,
) -> Object:
    """A Pod; annotation keys are given without our prefix."""
    metadata: Object = {"name": name}
    if annotations:
        metadata["annotations"] = {f"envoy-sidecar.io/{key}": value for key, value in annotations.items()}
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers or [container()]} | spec,
    }


def generated(pod: Object, prefix: str) -> Object:
    """The same pod, named by the API server."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != "name"}
    return pod | {"metadata": metadata | {"generateName": prefix}}


def workload(kind: str, template: Object, name: str = "cart") -> Object:
    """A workload of one replica that makes such pods."""
    labels = {"app": name}
    metadata = {key: value for key, value in template["metadata"].items() if key != "name"}
    metadata["labels"] = metadata.get("labels", {}) | labels
    pods: Object = {"metadata": metadata, "spec": dict(template["spec"])}
    selected: Object = {"selector": {"matchLabels": labels}, "template": pods}
    spec: Object
    match kind:
        case "Job":
            pods["spec"]["restartPolicy"] = "Never"
            version, spec = "batch/v1", {"template": pods}
        case "CronJob":
            pods["spec"]["restartPolicy"] = "Never"
            version, spec = "batch/v1", {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": pods}}}
        case "StatefulSet":
            version, spec = "apps/v1", selected | {"serviceName": name}
        case _:
            version, spec = "apps/v1", selected
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def deployment(template: Object) -> Object:
    return workload("Deployment", template)


def config_map(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}}


def binding(cluster_role: str, user: str) -> Object:
    """A ClusterRoleBinding."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{user.replace(':', '-')}-{cluster_role}"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": cluster_role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


def named(containers: list[Object], name: str) -> Object:
    """The container of that name; raises if there is none or more than one."""
    (found,) = [one for one in containers if one["name"] == name]
    return found


def container_names(pod: Object) -> list[str]:
    return [one["name"] for one in pod["spec"]["containers"]]


def init_names(pod: Object) -> list[str]:
    return [one["name"] for one in pod["spec"].get("initContainers", [])]


def sidecar(pod: Object) -> Object:
    """Our container in its native form."""
    return named(pod["spec"]["initContainers"], SIDECAR)
