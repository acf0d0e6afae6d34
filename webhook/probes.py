"""Probes under redirection: which keep their meaning by themselves, and what becomes of the others.

HTTP, HTTPS and gRPC probes, and httpGet hooks, stay as their author wrote them: Envoy passes them on, and where the
application does not answer, neither does Envoy answer well for it. A TCP probe asks only whether somebody accepts the
connection, and of a redirected port Envoy always does. So it becomes an HTTP probe of the sidecar's port 15020, for
which Envoy connects to the application's port; all else in it stays, and what it was is kept in an annotation.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any, Literal

import msgspec

from webhook.choices import Choices
from webhook.patch import Operation
from webhook.pod import CONTAINERS, Action, Container, Pod, Probe
from webhook.settings import PORTS
from webhook.values import contains

Document = Mapping[str, Any]
Kind = Literal["startupProbe", "readinessProbe", "livenessProbe"]
Place = tuple[str, int, Kind]  # the list, the container's index in it, less ours, and which of its probes

KINDS: tuple[Kind, ...] = ("startupProbe", "readinessProbe", "livenessProbe")
LISTS = ("initContainers", "containers")
MESH_PORTS = frozenset(astuple(PORTS)) - {PORTS.xds}  # the control plane listens there, no sidecar
MAX_PORTS = 64  # each is a cluster of Envoy's; its configuration is one argument, which Linux ends at 128 KiB
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
class Tcp:
    """A TCP probe, and how it is to get to the port that it asks for."""

    place: Place
    container: str
    port: int
    timeout_seconds: int
    way: Way


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a pod's TCP probes. `astray` are probes that ask for the sidecar's port by themselves."""

    tcp: tuple[Tcp, ...] = ()
    astray: tuple[tuple[Place, str], ...] = ()

    @property
    def asked(self) -> dict[Place, int]:
        """The port of each probe that is asked of the sidecar."""
        return {probe.place: probe.port for probe in self.tcp if probe.way is Way.ASKED_OF_SIDECAR}

    @property
    def paths(self) -> dict[str, int]:
        """The port behind each path that the sidecar is asked for."""
        return {path_of(port): port for port in sorted(set(self.asked.values()))}

    @property
    def timeout_seconds(self) -> int:
        """How long the most patient of them waits."""
        return max((probe.timeout_seconds for probe in self.tcp), default=1)


NOTHING = Plan()


def plan(pod: Pod, choices: Choices) -> Plan:
    """What becomes of the probes of `pod`, without parts of ours and with the probes that its author wrote."""
    tcp: list[Tcp] = []
    astray: list[tuple[Place, str]] = []
    for place, container, probe in each(pod):
        action = probe.tcp_socket or probe.http_get
        if action is not None and action.port == PORTS.probes and not action.host:
            astray.append((place, container.name))
        if probe.tcp_socket is not None:
            port, early = number(container, probe.tcp_socket.port), is_early(place, choices)
            found = way("tcpSocket", probe.tcp_socket.host, port, choices, early=early)
            # The API server refuses other timeouts; an hour is as good as for ever.
            tcp.append(Tcp(place, container.name, port, min(max(probe.timeout_seconds, 1), 3600), found))
    return Plan(tuple(tcp), tuple(astray)) if tcp or astray else NOTHING


def each(pod: Pod) -> Iterator[tuple[Place, Container, Probe]]:
    """Every probe of the pod."""
    for name, containers in (("initContainers", pod.spec.init_containers), ("containers", pod.spec.containers)):
        for index, container in enumerate(containers or ()):
            if (probe := container.startup_probe) is not None:
                yield (name, index, "startupProbe"), container, probe
            if (probe := container.readiness_probe) is not None:
                yield (name, index, "readinessProbe"), container, probe
            if (probe := container.liveness_probe) is not None:
                yield (name, index, "livenessProbe"), container, probe


def way(action: str, host: str, port: int, choices: Choices, *, early: bool = False) -> Way:
    """How a probe with this action gets to `port` of `host`; the pod is the host of ""; 0 is no port."""
    if action not in ("httpGet", "tcpSocket", "grpc"):
        return Way.INSIDE
    if host:
        return Way.ELSEWHERE
    if choices.mode == "none":
        return Way.NO_REDIRECTION
    if port == 0:
        return Way.UNKNOWN_PORT
    if port in MESH_PORTS:
        return Way.OF_SIDECAR
    if contains(choices.exclude_inbound_ports, port):
        return Way.EXCLUDED
    if action != "tcpSocket":
        return Way.THROUGH_ENVOY
    return Way.BEFORE_REDIRECTION if early else Way.ASKED_OF_SIDECAR


def is_early(place: Place, choices: Choices) -> bool:
    """Whether it is one of an author's native sidecar beside a classic one of ours, asked before Envoy is there."""
    name, _, kind = place
    return choices.form == "classic" and name == "initContainers" and kind != "readinessProbe"


def number(container: Container, port: int | str) -> int:
    """The number of a port, or 0; a name is one that the container declares, as for the kubelet."""
    if isinstance(port, str):
        port = next((declared.container_port for declared in container.ports or () if declared.name == port), 0)
    return port if 1 <= port <= 65535 else 0


# From what the author wrote to what is asked of the sidecar


def path_of(port: int) -> str:
    """What the sidecar is asked for in its stead."""
    return f"/tcp/{port}"


def _question(port: int) -> Document:
    return {"path": path_of(port), "port": PORTS.probes, "scheme": "HTTP"}


def _exchanged(probe: Document, old: str, new: str, action: object) -> Document:
    """The probe with another action, and whatever else it says."""
    return {new: action, **{key: value for key, value in probe.items() if key not in (old, new)}}


def annotation(authored: Document, planned: Plan) -> str | None:
    """What the pod keeps of the probes that are rewritten: what stood under `tcpSocket`, by container and kind."""
    originals: dict[str, dict[Kind, Any]] = {}
    for name, index, kind in planned.asked:
        container = authored["spec"][name][index]
        originals.setdefault(container["name"], {})[kind] = container[kind]["tcpSocket"]
    return msgspec.json.encode(originals).decode() if originals else None


def changes(present: Document, authored: Document, planned: Plan) -> Iterator[Operation]:
    """Operations that make the probes of the pod `present` what is planned for those of `authored`.

    The only ones that touch what is not ours, by its index in the pod as it came: so they precede all others.
    """
    asked = planned.asked
    if present is authored and not asked:
        return
    for name in LISTS:
        theirs = [item for item in enumerate(present["spec"].get(name) or ()) if item[1]["name"] not in CONTAINERS]
        for place, (index, container) in enumerate(theirs):
            author = authored["spec"][name][place]
            for kind in KINDS:
                port, wanted = asked.get((name, place, kind)), author.get(kind)
                if port is not None:
                    wanted = _exchanged(wanted, "tcpSocket", "httpGet", _question(port))
                if container.get(kind) != wanted:
                    where = f"/spec/{name}/{index}/{kind}"
                    yield {"op": "test", "path": where, "value": container[kind]}
                    yield {"op": "replace", "path": where, "value": wanted}


# And back


def restore(document: Document, kept: str | None) -> Document:
    """The raw pod, without parts of ours, with every probe that we rewrote as it was before.

    `kept` is the annotation, and may be anybody's: it counts only where the probe is what we make of what it says. So
    it can bring about nothing but a TCP probe of the pod itself, which its author might as well have written.
    """
    originals: Mapping[str, Mapping[str, Any]] = {}
    with suppress(msgspec.DecodeError, RecursionError):
        originals = _KEPT.decode(kept or "{}")
    spec = document["spec"]
    restored = {name: [_restored(one, originals.get(one["name"], {})) for one in spec[name]] for name in LISTS}
    return {**document, "spec": {**spec, **restored}} if originals else document


def _restored(container: Document, originals: Mapping[str, Any]) -> Document:
    changed: dict[str, Document] = {
        kind: _exchanged(container[kind], "httpGet", "tcpSocket", originals[kind])
        for kind in KINDS
        if kind in originals and _stands_for(container.get(kind), originals[kind])
    }
    return {**container, **changed}


def _stands_for(probe: Any, original: object) -> bool:
    """Whether `probe` is what became of `original`, whatever number its name had then."""
    try:
        written = msgspec.convert(original, Action)
    except msgspec.ValidationError:
        return False
    match probe:
        case {"httpGet": {"path": str(path), **rest}} if "tcpSocket" not in probe and not written.host:
            paths = path_of(written.port) if isinstance(written.port, int) else _PATH
            return re.fullmatch(paths, path) is not None and rest == {"port": PORTS.probes, "scheme": "HTTP"}
        case _:
            return False
