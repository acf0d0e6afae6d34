"""What is added to a pod, as dicts: the Envoy container, the init container, labels and annotations.

A pure function of the choices. Every default of the API server is spelled out, so that what comes back from it is
what was sent. Where each part goes in the pod is said here too; how it gets there is the patch's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from controlplane import bootstrap
from webhook import __version__, redirect, volumes
from webhook.choices import Choices
from webhook.pod import (
    BOOTSTRAP_ANNOTATION,
    INIT,
    INJECTED_LABEL,
    SETTINGS_ANNOTATION,
    SIDECAR,
    VERSION_ANNOTATION,
)
from webhook.probes import NOTHING, Plan
from webhook.settings import PORTS, Settings
from webhook.values import Percent, Quantity
from webhook.volumes import BUSYBOX

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is added, and where: at the head or the end of each list."""

    first_init_containers: tuple[Document, ...]
    last_init_containers: tuple[Document, ...]
    first_containers: tuple[Document, ...]
    volumes: tuple[Document, ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def render(choices: Choices, service: str, settings: Settings, probes: Plan = NOTHING) -> Parts:
    """The parts for a pod of `service` that gets `choices`, and whose TCP probes are asked of it as planned."""
    envoy = _envoy(choices, service, settings, probes)
    init = (_init(choices, settings),) if choices.mode != "none" else ()
    native = choices.form == "native"
    return Parts(
        first_init_containers=(*init, envoy) if native else (),
        last_init_containers=() if native else init,
        first_containers=() if native else (envoy,),
        volumes=tuple(volumes.render(settings.bootstrap, told=_is_told(choices, settings))),
        labels={INJECTED_LABEL: "true"},
        annotations={
            VERSION_ANNOTATION: __version__,
            SETTINGS_ANNOTATION: settings.hash,
            BOOTSTRAP_ANNOTATION: bootstrap.content_hash(settings.bootstrap),
        },
    )


# What is the same in every pod


def _downward(name: str, path: str) -> Document:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _ready(*, period: int, failures: int) -> Document:
    return {
        "httpGet": {"path": "/ready", "port": PORTS.ready, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": period,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


_COMMON: Document = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "FallbackToLogsOnError",
}
_PORTS = [{"name": "envoy-metrics", "containerPort": PORTS.metrics, "protocol": "TCP"}]
_IDENTITY = [
    _downward("POD_NAME", "metadata.name"),
    _downward("POD_NAMESPACE", "metadata.namespace"),
    _downward("POD_IP", "status.podIP"),
    _downward("NODE_NAME", "spec.nodeName"),
    _downward("SERVICE_ACCOUNT", "spec.serviceAccountName"),
]
_STARTUP_PROBE = _ready(period=1, failures=60)
_READINESS_PROBE = _ready(period=5, failures=3)
_DRAIN: Document = {"preStop": {"httpGet": {"path": "/drain", "port": PORTS.ready, "scheme": "HTTP"}}}
# A postStart hook blocks the next container's start; the distroless image has no shell of its own for it.
_WAIT = f"until {BUSYBOX} wget -q -O /dev/null http://127.0.0.1:{PORTS.ready}/ready; do {BUSYBOX} sleep 0.2; done"
_WAIT_UNTIL_READY: Document = {"postStart": {"exec": {"command": [BUSYBOX, "sh", "-c", _WAIT]}}}


# The Envoy container


def _envoy(choices: Choices, service: str, settings: Settings, probes: Plan) -> Document:
    native = choices.form == "native"
    return {
        "name": SIDECAR,
        "image": choices.image,
        "imagePullPolicy": settings.sidecar.image_pull_policy,
        "args": _arguments(choices, service, probes),
        "env": [*_IDENTITY, *_trace_resource(service, settings)],
        "ports": _PORTS,
        "resources": _resources(choices.cpu_request, choices.cpu_limit, choices.memory_request, choices.memory_limit),
        "startupProbe": _STARTUP_PROBE,
        "readinessProbe": _READINESS_PROBE,
        "lifecycle": _DRAIN if native else {**_classic_end(choices.drain_seconds), **_WAIT_UNTIL_READY},
        "securityContext": _envoy_security(choices, settings),
        **_COMMON,
        "volumeMounts": volumes.sidecar_mounts(told=_is_told(choices, settings)),
        **({"restartPolicy": "Always"} if native else {}),
    }


def _classic_end(seconds: int) -> Document:
    """A classic sidecar is told to end when the application is: it drains, and stays that long."""
    end = f"{BUSYBOX} wget -q -O /dev/null http://127.0.0.1:{PORTS.ready}/drain; {BUSYBOX} sleep {seconds}"
    return {"preStop": {"exec": {"command": [BUSYBOX, "sh", "-c", end]}}}


def _is_told(choices: Choices, settings: Settings) -> bool:
    """Whether the sidecar asks a control plane, and needs what that takes."""
    return bool(settings.bootstrap.control_plane) and choices.mode != "none"


def _trace_resource(service: str, settings: Settings) -> list[Document]:
    """What the spans of this pod say of themselves, in OpenTelemetry's words."""
    if not settings.bootstrap.tracing.collector:
        return []
    named = f"service.name={service},k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME)"
    return [{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": named}]


def listeners(choices: Choices, settings: Settings, probes: Plan) -> list[tuple[str, str, int]]:
    """Name, address and port of each of Envoy's listeners, on a node with IPv6."""
    file = "bootstrap-none.json" if choices.mode == "none" else "bootstrap-dual.json"
    shared = msgspec.json.decode(bootstrap.render(settings.bootstrap)[file])
    own = _overlay(choices, probes).get("static_resources", {})
    found = [*shared["static_resources"]["listeners"], *own.get("listeners", ())]
    sockets = [(each["name"], each["address"]["socket_address"]) for each in found]
    return [(name, socket["address"], socket["port_value"]) for name, socket in sockets]


def _overlay(choices: Choices, probes: Plan) -> Document:
    return bootstrap.overlay(
        node_metadata={
            "namespace": "$(POD_NAMESPACE)",
            "pod_ip": "$(POD_IP)",
            "node_name": "$(NODE_NAME)",
            "service_account": "$(SERVICE_ACCOUNT)",
            "upstreams": ",".join(choices.upstreams),
        },
        access_log=choices.access_log,
        tcp_probes=probes.paths,
        tcp_probe_seconds=probes.timeout_seconds,
    )


def _arguments(choices: Choices, service: str, probes: Plan) -> list[str]:
    return [
        "--config-path",
        # The init container knows whether the node has IPv6, and links the right file.
        f"{volumes.CONFIG_DIRECTORY}/bootstrap-none.json"
        if choices.mode == "none"
        else f"{volumes.RUN_DIRECTORY}/bootstrap.json",
        "--config-yaml",
        msgspec.json.encode(_overlay(choices, probes)).decode(),
        "--service-node",
        "$(POD_NAME).$(POD_NAMESPACE)",
        "--service-cluster",
        service,
        "--concurrency",
        str(choices.concurrency),
        "--log-level",
        choices.log_level,
        "--drain-time-s",
        str(choices.drain_seconds),
        "--drain-strategy",
        "immediate",
        "--disable-hot-restart",
    ]


def _envoy_security(choices: Choices, settings: Settings) -> Document:
    """Transparent sockets need NET_ADMIN, which only root keeps over exec; the group exempts its traffic then."""
    transparent = choices.mode == "tproxy"
    return _security(
        user=0 if transparent else settings.sidecar.uid,
        group=settings.sidecar.gid,
        add=("NET_ADMIN",) if transparent else (),
    )


# The init container


def _init(choices: Choices, settings: Settings) -> Document:
    rules = redirect.render(
        redirect.Redirection(
            mode="tproxy" if choices.mode == "tproxy" else "redirect",
            uid=settings.sidecar.uid,
            gid=settings.sidecar.gid,
            exclude_inbound_ports=choices.exclude_inbound_ports,
            exclude_outbound_ports=choices.exclude_outbound_ports,
            exclude_outbound_cidrs=choices.exclude_outbound_cidrs,
            include_outbound_cidrs=choices.include_outbound_cidrs,
            opaque_inbound_ports=choices.opaque_inbound_ports,
            opaque_outbound_ports=choices.opaque_outbound_ports,
        )
    )
    resources = settings.init.resources
    return {
        "name": INIT,
        "image": settings.init.image,
        "imagePullPolicy": settings.init.image_pull_policy,
        "env": [
            {"name": "ENVOY_SIDECAR_MODE", "value": choices.mode},
            {"name": "IPTABLES_RULES_IPV4", "value": rules.ipv4},
            {"name": "IPTABLES_RULES_IPV6", "value": rules.ipv6},
            *([] if choices.form == "native" else [{"name": "BUSYBOX_COPY", "value": BUSYBOX}]),
        ],
        "resources": _resources(
            resources.cpu_request, resources.cpu_limit, resources.memory_request, resources.memory_limit
        ),
        # As root: Kubernetes gives a non-root user no ambient capabilities. NET_RAW is for iptables-legacy.
        "securityContext": _security(user=0, group=0, add=("NET_ADMIN", "NET_RAW")),
        **_COMMON,
        "volumeMounts": volumes.INIT_MOUNTS,
    }


# What both share


def _security(*, user: int, group: int, add: tuple[str, ...]) -> Document:
    return {
        "runAsUser": user,
        "runAsGroup": group,
        "runAsNonRoot": user != 0,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "capabilities": {"drop": ["ALL"], **({"add": list(add)} if add else {})},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _present(kinds: Document) -> Document:
    """Without empty maps, which the API server leaves out."""
    return {kind: amounts for kind, amounts in kinds.items() if amounts}


def _resources(
    cpu_request: Quantity | Percent,
    cpu_limit: Quantity | Percent | None,
    memory_request: Quantity | Percent,
    memory_limit: Quantity | Percent | None,
) -> Document:
    limits = {"cpu": cpu_limit, "memory": memory_limit}
    return _present(
        {
            "requests": {"cpu": str(cpu_request), "memory": str(memory_request)},
            "limits": {name: str(limit) for name, limit in limits.items() if limit is not None},
        }
    )
