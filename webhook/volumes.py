"""The volumes that are added to a pod, and where its sidecar and its init container mount them."""

from collections.abc import Mapping
from typing import Any

from controlplane import discovery
from controlplane.bootstrap import Bootstrap, config_map_name
from webhook.pod import BOOTSTRAP_VOLUME, CA_VOLUME, NO_TOKEN_VOLUME, RUN_VOLUME, TOKEN_VOLUME

Document = Mapping[str, Any]

CONFIG_DIRECTORY = discovery.FILES
RUN_DIRECTORY = "/run/envoy-sidecar"
BUSYBOX = f"{RUN_DIRECTORY}/busybox"
API_TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a path
TOKEN_SECONDS = 3600  # the kubelet renews it after four fifths of that


def render(bootstrap: Bootstrap, *, told: bool) -> list[Document]:
    """The volumes of a pod; the last two only if a control plane tells its sidecar anything."""
    return [
        {"name": BOOTSTRAP_VOLUME, "configMap": {"name": config_map_name(bootstrap), "defaultMode": 0o444}},
        # In memory: an emptyDir on disk keeps the cluster autoscaler from removing the node.
        {"name": RUN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": NO_TOKEN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "4Ki"}},
        *([_CA, _TOKEN] if told else []),
    ]


def sidecar_mounts(*, told: bool) -> list[Document]:
    """Where the Envoy container mounts them."""
    return [
        {"name": BOOTSTRAP_VOLUME, "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        _MOUNT_RUN,
        _NO_API_TOKEN,
        *(_DISCOVERY_MOUNTS if told else []),
    ]


_MOUNT_RUN: Document = {"name": RUN_VOLUME, "mountPath": RUN_DIRECTORY}
# Where something is mounted already, the ServiceAccount plugin does not mount the application's API token.
_NO_API_TOKEN: Document = {"name": NO_TOKEN_VOLUME, "mountPath": API_TOKEN_DIRECTORY, "readOnly": True}
INIT_MOUNTS = [_MOUNT_RUN, _NO_API_TOKEN]

# How the control plane is trusted. A namespace that has just been labelled may not have it yet; its pods start anyway.
_CA: Document = {
    "name": CA_VOLUME,
    "configMap": {"name": discovery.TRUST_CONFIG_MAP, "defaultMode": 0o444, "optional": True},
}
# What the control plane knows the pod by. No other container mounts it, and it is good for nobody else.
_TOKEN: Document = {
    "name": TOKEN_VOLUME,
    "projected": {
        "sources": [
            {
                "serviceAccountToken": {
                    "audience": discovery.AUDIENCE,
                    "expirationSeconds": TOKEN_SECONDS,
                    "path": "token",
                }
            }
        ],
        "defaultMode": 0o444,
    },
}
_DISCOVERY_MOUNTS: list[Document] = [
    {"name": CA_VOLUME, "mountPath": discovery.TRUST, "readOnly": True},
    {"name": TOKEN_VOLUME, "mountPath": discovery.TOKEN, "readOnly": True},
]
