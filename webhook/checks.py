"""What is wrong, or surprising, about a pod that is to get a sidecar: one generator of sentences for each rule.

Each sentence says where, what, and what to do. Which of them refuse the pod is the policy's business.
"""

from bisect import bisect, bisect_left
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from webhook import pod as pods
from webhook import resources
from webhook.annotations import BY_KEY, Annotation
from webhook.choices import Choices
from webhook.pod import INJECT_LABEL, INJECTED_LABEL, PREFIX, Container, Pod, SecurityContext
from webhook.probes import MAX_PORTS, MESH_PORTS, Plan, Way
from webhook.settings import PORTS, Settings
from webhook.values import ZERO, Percent, Ports, Quantity, quote, show_ports

Level = Literal["privileged", "baseline", "restricted"]

PSA_LABEL = "pod-security.kubernetes.io/enforce"
DEFAULT_GRACE_SECONDS = 30  # spec.terminationGracePeriodSeconds


# Pods that cannot work


def combination(choices: Choices) -> Iterator[str]:
    """A form and a mode that exclude each other."""
    if choices.form == "classic" and choices.mode == "none":
        yield f"{PREFIX}sidecar: classic does not go with mode none; use {PREFIX}sidecar: native"


def pod_security(choices: Choices, level: Level) -> Iterator[str]:
    """A mode that needs what the namespace's level forbids."""
    if choices.mode != "none" and level != "privileged":
        yield (
            f"mode {choices.mode} needs NET_ADMIN, which this namespace's label {PSA_LABEL}={level} forbids: "
            f"annotate the pod {PREFIX}mode: none, or label the namespace {PSA_LABEL}=privileged"
        )


def foreign_parts(pod: Pod) -> Iterator[str]:
    """Containers, mounts and volumes of the author's under names of ours."""
    for container in pods.all_containers(pod):
        if container.name in pods.CONTAINERS:
            yield (
                f'container "{container.name}": the name belongs to the sidecar; choose another. If this is a copy of '
                "an injected pod, keep its annotations (kubectl debug --keep-annotations)"
            )
            continue
        for mount in container.volume_mounts or ():
            if mount.name in pods.VOLUMES:
                yield f"container {quote(container.name)} mounts {mount.name}, the sidecar's volume; remove the mount"
    for volume in pod.spec.volumes or ():
        if volume.name in pods.VOLUMES:
            yield f'volume "{volume.name}": the name belongs to the sidecar; choose another'


def port_conflicts(pod: Pod, plan: Plan) -> Iterator[str]:
    """Ports of ours that a container declares, or a probe asks for."""
    for container in pods.all_containers(pod):
        for port in sorted(MESH_PORTS.intersection(pods.tcp_ports(container))):
            yield f"container {quote(container.name)}: port {port} is the sidecar's; choose another"
    for (_, _, kind), name in plan.astray:
        yield (
            f"container {quote(name)}: {kind} asks for port {PORTS.probes}, which is the sidecar's; ask for "
            "the application's own"
        )


def too_many_probes(plan: Plan) -> Iterator[str]:
    """More probes than can be asked of the sidecar."""
    if len(plan.paths) > MAX_PORTS:
        yield (
            f"{len(plan.paths)} ports have TCP probes, and the sidecar can ask for {MAX_PORTS}: use HTTP or gRPC "
            f"probes, or list ports in {PREFIX}exclude-inbound-ports"
        )


def privilege_conflicts(pod: Pod, choices: Choices, settings: Settings) -> Iterator[str]:
    """What would let the application escape the redirection, or undo it."""
    if choices.mode == "none":
        return  # there is none
    if (context := pod.spec.security_context) is not None:
        yield from (f"the pod: {problem}" for problem in _conflicts(context, settings))
    for container in pods.all_containers(pod):
        if (context := container.security_context) is not None:
            yield from (f"container {quote(container.name)}: {problem}" for problem in _conflicts(context, settings))


def _conflicts(context: SecurityContext, settings: Settings) -> Iterator[str]:
    uid, gid = settings.sidecar.uid, settings.sidecar.gid
    used = {
        f"runAsUser {uid}": context.run_as_user == uid,
        f"runAsGroup {gid}": context.run_as_group == gid,
        f"fsGroup {gid}": context.fs_group == gid,
        f"supplementalGroups {gid}": gid in (context.supplemental_groups or ()),
    }
    for name in (name for name, is_used in used.items() if is_used):
        yield f"{name} is the sidecar's; its traffic would not be redirected; choose another"
    added = (context.capabilities and context.capabilities.add) or ()
    if context.privileged or any(name.upper().removeprefix("CAP_") in ("NET_ADMIN", "ALL") for name in added):
        yield "it has NET_ADMIN or is privileged, and could undo the redirection; drop that"


# Resources

_RESOURCE_FIELDS = (("cpu", 10**6), ("memory", 10**9))  # rounded up to 1m of a core, to a byte


def resolve(choices: Choices, pod: Pod) -> tuple[Choices, tuple[str, ...]]:
    """Percentages turned into quantities, and what is wrong with the result."""
    resolved: dict[str, Any] = {}
    problems = []
    for resource, step in _RESOURCE_FIELDS:
        for kind in ("request", "limit"):
            field = f"{resource}_{kind}"
            share = getattr(choices, field)
            if not isinstance(share, Percent):
                continue
            whole = _asked_for(pod, resource, kind)
            if whole == ZERO:
                problems.append(
                    f"{PREFIX}{resource}-{kind}: {share} of nothing: no container of the pod has a {resource} {kind}"
                )
            resolved[field] = share.of(whole, step)
    choices = msgspec.structs.replace(choices, **resolved)
    return choices, tuple(problems) or tuple(_above_limit(choices))


def _asked_for(pod: Pod, resource: str, kind: str) -> Quantity:
    if kind == "request":
        return sum((resources.request(container, resource) for container in pod.spec.containers), ZERO)
    limits = (resources.amount(container.resources, "limits", resource) for container in pod.spec.containers)
    return sum((limit for limit in limits if limit is not None), ZERO)


def _above_limit(choices: Choices) -> Iterator[str]:
    for resource, _ in _RESOURCE_FIELDS:
        request, limit = getattr(choices, f"{resource}_request"), getattr(choices, f"{resource}_limit")
        if limit is not None and request > limit:
            yield (
                f"{PREFIX}{resource}-request: {request} is above {PREFIX}{resource}-limit, {limit}: "
                "raise the limit or lower the request"
            )


def beyond_pod_resources(choices: Choices, pod: Pod, settings: Settings) -> Iterator[str]:
    """What the API server would refuse without naming us (KEP-2837: pod-level resources)."""
    if pod.spec.resources is None:
        return
    inits, containers = _with_ours(choices, pod, settings)
    for resource, _ in _RESOURCE_FIELDS:
        request, limit = getattr(choices, f"{resource}_request"), getattr(choices, f"{resource}_limit")
        whole = _whole_request(pod, resource)
        asked = resources.total_request(inits, containers, resource)
        if whole is not None and asked > whole:
            yield (
                f"spec.resources.requests.{resource} is {whole}, but the containers and the sidecar ask for {asked} "
                f"({request} is the sidecar's): set it to {asked} or more (where it is not written, the API server "
                "takes what the containers ask for, or else the pod's limit)"
            )
        most = resources.amount(pod.spec.resources, "limits", resource)
        # The limits of init containers, native sidecars among them, are not held against the pod's.
        if choices.form == "classic" and most is not None and limit is not None and limit > most:
            yield (
                f"spec.resources.limits.{resource} is {most}, below the sidecar's limit of {limit}: "
                f"raise it, or set {PREFIX}{resource}-limit"
            )


def _whole_request(pod: Pod, resource: str) -> Quantity | None:
    """The pod-level request; where none is written, what the API server takes for it (`SetDefaults_Pod`)."""
    written = resources.amount(pod.spec.resources, "requests", resource)
    asked = resources.total_request(pod.init_containers, pod.spec.containers, resource)
    if written is not None or asked.nano:
        return written or asked
    return resources.amount(pod.spec.resources, "limits", resource)


def _with_ours(choices: Choices, pod: Pod, settings: Settings) -> tuple[list[Container], list[Container]]:
    """The pod's init containers and containers, with ours where they will stand, as far as their requests go."""
    native = choices.form == "native"
    sidecar = _asking(choices.cpu_request, choices.memory_request, "Always" if native else None)
    init = [_asking(settings.init.resources.cpu_request, settings.init.resources.memory_request, None)]
    init = [] if choices.mode == "none" else init
    if native:
        return [*init, sidecar, *pod.init_containers], pod.spec.containers
    return [*pod.init_containers, *init], [sidecar, *pod.spec.containers]


def _asking(cpu: Quantity | Percent, memory: Quantity | Percent, restart_policy: str | None) -> Container:
    requests: dict[str, str | int | float] = {"cpu": str(cpu), "memory": str(memory)}
    return Container("", resources=pods.Resources(requests), restart_policy=restart_policy)


# What may surprise


def warnings(pod: Pod, given: tuple[Annotation, ...], choices: Choices, plan: Plan) -> Iterator[str]:
    """What the author of a pod that is admitted may not expect; `given` are the annotations that he set."""
    yield from _unknown_labels(pod)
    yield from _without_effect(given, choices)
    for name in ("exclude-inbound-ports", "opaque-inbound-ports"):
        if (row := BY_KEY[PREFIX + name]) in given:
            yield from _undeclared(row, _own_ports(pod, row), pod)
    yield from _tcp_probes(plan)
    given_grace = pod.spec.termination_grace_period_seconds
    grace = DEFAULT_GRACE_SECONDS if given_grace is None else given_grace
    if choices.drain_seconds > grace:
        yield (
            f"drain-seconds {choices.drain_seconds} exceeds terminationGracePeriodSeconds {grace}: "
            "the drain is cut short"
        )
    if choices.mode == "none":
        yield "mode none: inbound traffic does not pass the sidecar, outbound only where the application uses it"
    if choices.form == "classic":
        yield from _classic(pod)


def _unknown_labels(pod: Pod) -> Iterator[str]:
    """A misspelt opt-out is a label too, and silence would be taken for consent."""
    known = (INJECT_LABEL, INJECTED_LABEL)
    unknown = sorted(key for key in pod.labels if key.startswith(PREFIX) and key not in known)
    for key in unknown[:4]:
        yield f"{quote(key, 80)} is no label of ours; labels: {INJECT_LABEL}; all else is set by annotations"


def _own_ports(pod: Pod, row: Annotation) -> Ports:
    """The ports that the author himself wrote, without the operator's."""
    ports: Ports = row.parse(pod.annotations[row.key].strip())
    return ports


def _undeclared(row: Annotation, ports: Ports, pod: Pod) -> Iterator[str]:
    declared = sorted({port for container in pods.all_containers(pod) for port in pods.tcp_ports(container)})
    undeclared = tuple((first, last) for first, last in ports if bisect(declared, last) == bisect_left(declared, first))
    if undeclared:
        yield f"{row.name}: no container declares port {show_ports(undeclared[:3])}{'…' if undeclared[3:] else ''}"


def _tcp_probes(plan: Plan) -> Iterator[str]:
    for probe in plan.tcp:
        kind = probe.place[-1]
        if probe.way is Way.UNKNOWN_PORT:
            yield f"container {quote(probe.container)}: {kind}: the container declares no such port"
        elif probe.way is Way.BEFORE_REDIRECTION and kind == "livenessProbe":
            yield (
                f"container {quote(probe.container)}: {kind}: beside a classic sidecar, Envoy accepts this connection "
                "for the application"
            )


def _without_effect(given: tuple[Annotation, ...], choices: Choices) -> Iterator[str]:
    if choices.mode == "none":
        for row in given:
            if row.name.startswith(("exclude-", "include-", "opaque-", "upstreams")):
                yield f"{row.name} has no effect in mode none"


def _classic(pod: Pod) -> Iterator[str]:
    if pod.owner is not None and pod.owner.kind == "Job":
        yield "a classic sidecar outlives the Job's containers: the Job never completes; use a native one"
    if pod.init_containers:
        yield "a classic sidecar starts after the init containers: their traffic does not pass it"
