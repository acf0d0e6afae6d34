"""Probes under redirection: which keep their meaning by themselves, and what becomes of the others.

HTTP, HTTPS and gRPC probes, and httpGet hooks, stay as their author wrote them: Envoy passes them on, and where the
application does not answer, neither does Envoy answer well for it. A TCP probe asks only whether somebody accepts the
connection, and of a redirected port Envoy always does. So it becomes an HTTP probe of the sidecar's port 15020, for
which Envoy connects to the application's port; all else in it stays, and what it was is kept in an annotation.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any, Literal

import msgspec

from webhook.choices import Choices
from webhook.patch import Operation
from webhook.pod import CONTAINERS, Container, Pod
from webhook.settings import PORTS

Probe = Mapping[str, Any]
Kind = Literal["startupProbe", "readinessProbe", "livenessProbe"]
Place = tuple[str, int, Kind]  # the list, the container's index in it, less ours, and which of its probes

MESH_PORTS = frozenset(astuple(PORTS)) - {PORTS.xds}  # the control plane listens there, no sidecar
MAX_PORTS = 64  # each is a cluster of Envoy's; its configuration is one argument, which Linux ends at 128 KiB
FIELDS: Mapping[Kind, str] = {
    "startupProbe": "startup_probe",
    "readinessProbe": "readiness_probe",
    "livenessProbe": "liveness_probe",
}
_ACTIONS = ("exec", "httpGet", "tcpSocket", "grpc")
_PATH = re.compile(r"/tcp/[0-9]+", re.ASCII)
_KEPT = msgspec.json.Decoder(dict[str, dict[str, Any]])


class Way(StrEnum):
    """How a probe or a hook gets to what it asks."""

    INSIDE = "inside the container"
    ELSEWHERE = "to another host"
    NO_REDIRECTION = "directly: mode none redirects nothing"
    EXCLUDED = "directly: exclude-inbound-ports"
    BEFORE_REDIRECTION = "as written: it is asked before a classic sidecar runs"
    UNKNOWN_PORT = "as written: the container declares no such port"
    IGNORED = "never: the kubelet knows no such hook"
    OF_SIDECAR = "as written: the port is the sidecar's own"
    THROUGH_ENVOY = "through Envoy, as written"
    ASKED_OF_SIDECAR = "asked of the sidecar, which connects to the port"


@dataclass(frozen=True, slots=True)
class Plan:
    """The probes that are rewritten: what each becomes, and for Envoy the ports that they ask for."""

    rewritten: Mapping[Place, Probe]
    originals: Mapping[str, Mapping[Kind, Any]]  # by container: what stood under `tcpSocket`
    ports: tuple[int, ...] = ()
    timeout_seconds: int = 1

    @property
    def annotation(self) -> str:
        """The originals, as the pod keeps them."""
        return msgspec.json.encode(self.originals).decode()

    @property
    def paths(self) -> dict[str, int]:
        """The port behind each path."""
        return {_path(port): port for port in self.ports}


NOTHING = Plan({}, {})


def plan(pod: Pod, choices: Choices) -> Plan:
    """What becomes of the probes of `pod`, without parts of ours and with the probes that its author wrote."""
    found = [
        (place, container, probe)
        for place, container, probe in each(pod)
        if "tcpSocket" in probe and way(container, place, probe, choices) is Way.ASKED_OF_SIDECAR
    ]
    if not found:
        return NOTHING
    rewritten, ports, originals = {}, set(), dict[str, dict[Kind, Any]]()
    for place, container, probe in found:
        port = _port(container, probe["tcpSocket"])
        assert port is not None  # nothing is asked of the sidecar otherwise
        rewritten[place] = _exchanged(probe, "tcpSocket", "httpGet", _question(port))
        originals.setdefault(container.name, {})[place[2]] = probe["tcpSocket"]
        ports.add(port)
    return Plan(rewritten, originals, tuple(sorted(ports)), max(_timeout(probe) for _, _, probe in found))


def each(pod: Pod) -> Iterator[tuple[Place, Container, Probe]]:
    """Every probe of the pod."""
    for name, containers in (("initContainers", pod.init_containers), ("containers", pod.spec.containers)):
        for index, container in enumerate(containers):
            for kind, field in FIELDS.items():
                probe = getattr(container, field)
                if probe is not None:
                    yield (name, index, kind), container, probe


def way(container: Container, place: Place, probe: Probe, choices: Choices) -> Way:
    """How this probe gets to what it asks."""
    return _way(container, probe, choices, early=_is_early(place, choices))


def hook_way(container: Container, hook: Probe, choices: Choices) -> Way:
    """The same of a lifecycle hook."""
    return Way.IGNORED if "tcpSocket" in hook else _way(container, hook, choices, early=False)


def _way(container: Container, probe: Probe, choices: Choices, *, early: bool) -> Way:
    match [name for name in _ACTIONS if probe.get(name) is not None]:
        case [name] if isinstance(action := probe[name], dict) and name != "exec":
            pass
        case _:
            return Way.INSIDE
    port = _port(container, action)
    if action.get("host"):
        return Way.ELSEWHERE
    if choices.mode == "none":
        return Way.NO_REDIRECTION
    if port is None:
        return Way.UNKNOWN_PORT
    if port in MESH_PORTS:
        return Way.OF_SIDECAR
    if any(first <= port <= last for first, last in choices.exclude_inbound_ports):
        return Way.EXCLUDED
    if name != "tcpSocket":
        return Way.THROUGH_ENVOY
    return Way.BEFORE_REDIRECTION if early else Way.ASKED_OF_SIDECAR


def _is_early(place: Place, choices: Choices) -> bool:
    """Of an author's native sidecar, beside a classic one of ours: it is up, and kept alive, before Envoy is there."""
    name, _, kind = place
    return choices.form == "classic" and name == "initContainers" and kind != "readinessProbe"


def _port(container: Container, action: Probe) -> int | None:
    """The number of the port; a name is one that the container declares, as for the kubelet."""
    match action.get("port"):
        case str(name):
            port = next((port.container_port for port in container.ports or () if port.name == name), 0)
        case int(port) if not isinstance(port, bool):
            pass
        case _:
            return None
    return port if 1 <= port <= 65535 else None


def _timeout(probe: Probe) -> int:
    """Seconds; what is no such number the API server refuses."""
    seconds = probe.get("timeoutSeconds")
    return min(max(seconds, 1), 3600) if isinstance(seconds, int) else 1


def _path(port: int) -> str:
    return f"/tcp/{port}"


def _question(port: int) -> Probe:
    return {"path": _path(port), "port": PORTS.probes, "scheme": "HTTP"}


def _exchanged(probe: Probe, old: str, new: str, action: object) -> Probe:
    """The probe with another action, and whatever else it says."""
    return {new: action, **{key: value for key, value in probe.items() if key not in (old, new)}}


# Back to what the author wrote


def restore(pod: Pod, annotation: str | None) -> Pod:
    """`pod`, without parts of ours, with every probe that we rewrote as it was before.

    The annotation may be anybody's: it counts only where the probe is what we make of what it says. So it can bring
    about nothing but a TCP probe of the pod itself, which its author might as well have written.
    """
    kept: Mapping[str, Mapping[str, Any]] = {}
    with suppress(msgspec.DecodeError, RecursionError):
        kept = _KEPT.decode(annotation or "{}")
    if not kept:
        return pod

    def restored(containers: Iterable[Container]) -> list[Container]:
        return [_restored(one, kept[one.name]) if one.name in kept else one for one in containers]

    spec = msgspec.structs.replace(
        pod.spec,
        given_containers=restored(pod.spec.containers),
        init_containers=restored(pod.init_containers),
    )
    return msgspec.structs.replace(pod, spec=spec)


def _restored(container: Container, originals: Mapping[str, Any]) -> Container:
    changed = {}
    for kind, field in FIELDS.items():
        probe, original = getattr(container, field), originals.get(kind)
        if probe is not None and _stands_for(probe, original):
            changed[field] = _exchanged(probe, "httpGet", "tcpSocket", original)
    return msgspec.structs.replace(container, **changed)


def _stands_for(probe: Probe, original: object) -> bool:
    """Whether `probe` is what became of `original`, whatever number its name had then."""
    if not isinstance(original, dict) or original.get("host") or "tcpSocket" in probe:
        return False
    match original.get("port"), probe.get("httpGet"):
        case int(port), action:
            return action == _question(port)
        case str(), {"path": str(path), **rest}:
            return _PATH.fullmatch(path) is not None and rest == {"port": PORTS.probes, "scheme": "HTTP"}
        case _:
            return False


def changes(received: Pod, authored: Pod, planned: Plan) -> Iterator[Operation]:
    """Operations that make the probes of `received` what is planned for those of `authored`.

    The only ones that touch what is not ours, by its index in the pod as it came: so they precede all others.
    """
    if received is authored and not planned.rewritten:
        return
    for name, present, written in (
        ("initContainers", received.init_containers, authored.init_containers),
        ("containers", received.spec.containers, authored.spec.containers),
    ):
        theirs = [(index, one) for index, one in enumerate(present) if one.name not in CONTAINERS]
        for place, ((index, container), author) in enumerate(zip(theirs, written, strict=True)):
            for kind, field in FIELDS.items():
                probe = getattr(container, field)
                wanted = planned.rewritten.get((name, place, kind), getattr(author, field))
                if probe != wanted:
                    path = f"/spec/{name}/{index}/{kind}"
                    yield {"op": "test", "path": path, "value": probe}
                    yield {"op": "replace", "path": path, "value": wanted}
