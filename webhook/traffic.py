"""What the traffic and the probes of an injected pod will meet, in words: rows of a table for people.

Says what redirect.py, sidecar.py and probes.py make; decides nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from webhook import probes, sidecar
from webhook.choices import Choices
from webhook.pod import Container, Pod
from webhook.probes import LISTS, Plan, Way
from webhook.redirect import MESH, OPEN
from webhook.settings import PORTS, Settings
from webhook.values import show_ports

Document = Mapping[str, Any]
Row = tuple[str, str, str]

_USES = {
    "outbound": "what the application sends",
    "inbound": "what it receives",
    "opaque-outbound": "what it sends as plain TCP",
    "opaque-inbound": "what it receives as plain TCP",
    "metrics": "GET /stats/prometheus and /stats/destinations",
    "ready": "GET /ready, and /drain for the hook at the pod's end",
    "explicit": "HTTP and CONNECT, from an application that is pointed at it",
    "probes": "GET of the paths that stand for TCP probes",
}


def tables(document: Document, choices: Choices, settings: Settings) -> Iterator[list[Row]]:
    """What is redirected, who listens, and what becomes of the probes of the raw pod, as its author wrote it."""
    pod = msgspec.convert(document, Pod)
    yield [("TRAFFIC", "WHICH", "GOES"), *_rules(choices, settings)]
    yield [("LISTENER", "WHERE", "FOR"), *_listeners(choices, settings, probes.plan(pod, choices))]
    if found := list(_asked(pod, document, choices)):
        yield [("PROBE", "ASKS", "GETS THERE"), *found]


def _rules(choices: Choices, settings: Settings) -> Iterator[Row]:
    """Direction, which traffic, where it goes: the first row that fits counts."""
    if choices.mode == "none":
        yield "any", "all", f"directly; the application may be pointed at 127.0.0.1:{PORTS.explicit}"
        return
    kept = ", keeping the caller's address" if choices.mode == "tproxy" else ""
    yield "in", f"to {show_ports(OPEN)}", "directly: the sidecar's own pages"
    if choices.exclude_inbound_ports:
        yield "in", f"to {show_ports(choices.exclude_inbound_ports)}", "directly: exclude-inbound-ports"
    if choices.opaque_inbound_ports:
        yield (
            "in",
            f"to {show_ports(choices.opaque_inbound_ports)}",
            f"Envoy :{PORTS.opaque_inbound}, as plain TCP{kept}",
        )
    yield "in", "all other TCP", f"Envoy :{PORTS.inbound}{kept}"
    yield from _outbound(choices, settings)
    yield "any", "UDP", "directly"


def _outbound(choices: Choices, settings: Settings) -> Iterator[Row]:
    if choices.exclude_outbound_ports:
        yield "out", f"to {show_ports(choices.exclude_outbound_ports)}", "directly: exclude-outbound-ports"
    yield "out", f"of uid {settings.sidecar.uid} or gid {settings.sidecar.gid}", "directly: Envoy's own"
    yield "out", "to loopback and the pod's own addresses", "directly"
    yield "out", f"to {show_ports(MESH)}", "directly: ports of other sidecars"
    if choices.exclude_outbound_cidrs:
        yield "out", f"to {','.join(choices.exclude_outbound_cidrs)}", "directly: exclude-outbound-cidrs"
    included = ",".join(choices.include_outbound_cidrs)
    within = f" in {included}" if included else ""
    if choices.opaque_outbound_ports:
        opaque = f"to {show_ports(choices.opaque_outbound_ports)}{within}"
        yield "out", opaque, f"Envoy :{PORTS.opaque_outbound}, as plain TCP"
    yield "out", f"to {included}" if included else "all other TCP", f"Envoy :{PORTS.outbound}"
    if included:
        yield "out", "all other TCP", "directly: include-outbound-cidrs"


def _listeners(choices: Choices, settings: Settings, planned: Plan) -> Iterator[Row]:
    """Envoy's listeners: the name, where it listens, what for."""
    for name, address, port in sidecar.listeners(choices, settings, planned):
        where = {"0.0.0.0": "", "$(POD_IP)": "the pod's address"}.get(address, address)  # noqa: S104  a name for it
        yield name, f"{where}:{port}", _USES[name]


def _asked(pod: Pod, document: Document, choices: Choices) -> Iterator[Row]:
    """The probes and hooks: which, what it asks, and how it gets there."""
    for name, containers in zip(LISTS, (pod.init_containers, pod.spec.containers), strict=True):
        for index, container in enumerate(containers):
            written = document["spec"][name][index]
            for kind in probes.KINDS:
                if written.get(kind):
                    early = probes.is_early((name, index, kind), choices)
                    yield f"{container.name} {kind}", *_told(container, written[kind], choices, early=early)
            for hook, handler in (written.get("lifecycle") or {}).items():
                if handler:
                    yield f"{container.name} {hook}", *_told(container, handler, choices, is_hook=True)


def _told(
    container: Container, probe: Document, choices: Choices, *, early: bool = False, is_hook: bool = False
) -> tuple[str, str]:
    """What it asks, and how it gets there."""
    found = [(name, probe[name]) for name in ("httpGet", "tcpSocket", "grpc") if isinstance(probe.get(name), dict)]
    if not found:
        return next((name for name in ("exec", "sleep") if name in probe), "nothing"), Way.INSIDE
    ((name, action), *_) = found
    port = probes.number(container, action.get("port", 0))
    way = probes.way(name, action.get("host", ""), port, choices, early=early)
    if is_hook and name == "tcpSocket":
        way = Way.IGNORED
    told = f"{way}: GET :{PORTS.probes}{probes.path_of(port)}" if way is Way.ASKED_OF_SIDECAR else str(way)
    return _question(name, action), told


def _question(name: str, action: Document) -> str:
    where = f"{action.get('host', '')}:{action.get('port', '')}"
    match name:
        case "httpGet":
            return f"GET {action.get('scheme', 'HTTP').lower()}://{where}{action.get('path', '/')}"
        case "grpc":
            return f"grpc {where}"
        case _:
            return f"tcp {where}"
