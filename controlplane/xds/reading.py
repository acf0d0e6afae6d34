"""Kubernetes' objects, read into our words. What cannot be used is left out and told of; nothing here ever raises.

The sources of the rules are kube-proxy and the API reference of Service and EndpointSlice, v1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from controlplane.ports import PORTS
from controlplane.xds import addresses, objects, policies
from controlplane.xds.annotations import PREFIX
from controlplane.xds.clusters import is_asked
from controlplane.xds.mesh import Batch, Endpoint, Form, Key, Locality, Port, Problem, Protocol, Service, Workload
from controlplane.xds.policy import Policy

MAX_PORT = 65535
MAX_PORTS = 128  # of a Service: each is a cluster in every caller's Envoy
MAX_ENDPOINTS = 10_000  # of a slice; the API server allows 1,000
MAX_UPSTREAMS = 128  # of a pod
MAX_PROBLEMS = 10  # of an object, each of which is told; the others are counted
OWNER = "kubernetes.io/service-name"  # the label by which a slice names its Service
ANOTHERS = "service.kubernetes.io/service-proxy-name"  # the label of a Service that kube-proxy leaves to another

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_UPSTREAM = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?", re.ASCII)  # a node, or a label's value


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice. `key` is its own name."""

    key: Key
    service: Key
    batch: Batch
    problems: tuple[Problem, ...] = ()

    def has_more_than(self, other: "Slice | None") -> bool:
        """Whether somebody takes requests here who does not there."""
        if other is None or set(self.batch.ports) - set(other.batch.ports):
            return self._ready != frozenset()
        return not self._ready <= other._ready

    @property
    def _ready(self) -> frozenset[str]:
        return frozenset(one.address for one in self.batch.endpoints if one.ready)


@dataclass(frozen=True, slots=True)
class Node:
    """A node's zone, by its well-known label."""

    name: str
    zone: str


_T = TypeVar("_T")


def service(raw: Any) -> Service | Problem:
    """A Service; a Problem if it is none at all."""
    found = _convert(raw, objects.Service, "Service")
    if isinstance(found, Problem):
        return found
    key, spec = Key(found.metadata.namespace, found.metadata.name), found.spec
    if not _LABEL.fullmatch(key.name) or not _LABEL.fullmatch(key.namespace):
        return _problem("Service", found.metadata, "its name is no DNS label")
    if ANOTHERS in (found.metadata.labels or {}):
        return _problem("Service", found.metadata, f"{ANOTHERS} leaves it to another proxy: it passes through")
    sticky = spec.session_affinity == "ClientIP"
    policy, problems = policies.read(found.metadata.annotations or {}, sticky=sticky)
    form = _form(spec)
    addresses, refused = _cluster_ips(spec)
    ports, left_out = _ports(spec.ports or [], policy)
    missing = [_NO_CLUSTER_IP] if form == "balanced" and not addresses and not refused else []
    messages = (
        *objects.unquoted(raw).values(),
        *problems,
        *_in_vain(policy, form, ports),
        *missing,
        *refused,
        *left_out,
    )
    return Service(
        key=key,
        form=form,
        addresses=addresses,
        families=tuple(spec.ip_families or ("IPv6" if addresses and ":" in addresses[0] else "IPv4",)),
        ports=ports,
        locality=_locality(spec, found.metadata.annotations or {}),
        sticky=sticky,
        policy=policy,
        problems=_problems("Service", found.metadata, messages),
        uid=found.metadata.uid,
    )


def _in_vain(policy: Policy, form: Form, ports: tuple[Port, ...]) -> tuple[str, ...]:
    match form:
        case "external":
            return policies.in_vain(policy, "an ExternalName Service passes through to the address that was dialled")
        case "headless":
            return policies.in_vain(policy, "a headless Service passes through to the pod that was dialled")
        case "balanced":
            # A port of TCP beside others takes what it can of annotations that are for those.
            if ports and all(port.protocol == "tcp" for port in ports):
                return policies.in_vain_over_tcp(policy)
            asked = not ports or not policy.health_check or any(is_asked(policy, port) for port in ports)
            return () if asked else (f"{PREFIX}health-check: no port carries what could be asked so",)


def _form(spec: objects.ServiceSpec) -> Form:
    if spec.type == "ExternalName":
        return "external"
    return "headless" if "None" in (spec.cluster_ip, *(spec.cluster_ips or ())) else "balanced"


# A manifest in a repository has none: the API server chooses it.
_NO_CLUSTER_IP = (
    "spec.clusterIP is missing: requests are told by the hosts that they name, and TCP, which names none, passes "
    "through; use the Service as the API server has it (kubectl get services -o yaml), or write clusterIP: None if it "
    "is headless"
)


def _locality(spec: objects.ServiceSpec, annotations: dict[str, str]) -> Locality:
    """internalTrafficPolicy is an order, trafficDistribution a wish; the annotation is the wish's older form."""
    if spec.internal_traffic_policy == "Local":
        return "node-only"
    match spec.traffic_distribution:
        case "PreferSameNode":
            return "node"
        case "PreferClose" | "PreferSameZone":
            return "zone"
        case _:
            pass
    modes = (annotations.get(f"service.kubernetes.io/topology-{which}", "") for which in ("mode", "aware-hints"))
    return "zone" if any(mode.lower() == "auto" for mode in modes) else "any"


def _cluster_ips(spec: objects.ServiceSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    texts = dict.fromkeys([*([spec.cluster_ip] if spec.cluster_ip else []), *(spec.cluster_ips or [])])
    texts.pop("None", None)
    read = [addresses.read(text) for text in list(texts)[:4]]
    return tuple(ip for ip, _ in read if ip), tuple(f"cluster IP {why}" for ip, why in read if not ip)


def _ports(raw: list[objects.Port], policy: Policy) -> tuple[tuple[Port, ...], list[str]]:
    ports: dict[int, Port] = {}
    problems: list[str] = []
    for one in raw:
        if one.protocol not in (None, "", "TCP"):
            continue  # UDP and SCTP are not redirected
        if one.port is None or not 0 < one.port <= MAX_PORT:
            problems.append(f"port {one.port}: not from 1 to {MAX_PORT}")
        elif one.port in _OWN_PORTS:
            problems.append(f"port {one.port} is the sidecar's own: calls of it pass through")
        elif one.port in ports:
            problems.append(f"port {one.port} comes twice: the first is used")
        elif len(ports) < MAX_PORTS:
            ports[one.port] = Port(one.port, one.name or "", _protocol(one, policy))
    if len(raw) > MAX_PORTS and len(ports) == MAX_PORTS:
        problems.append(f"more than {MAX_PORTS} ports: calls of the others pass through")
    there = {one.port for one in raw if one.protocol in (None, "", "TCP")}
    named = (number for number, _ in policy.protocols if number and number not in there)
    problems += (f"{PREFIX}protocol: there is no TCP port {number}" for number in named)
    return tuple(ports.values()), problems


_OWN_PORTS = frozenset(getattr(PORTS, name) for name in PORTS.__dataclass_fields__)
_BY_WORD: dict[str, Protocol] = {
    **dict.fromkeys(("http", "http2", "h2c", "kubernetes.io/h2c", "kubernetes.io/ws"), "http"),
    **dict.fromkeys(("grpc", "grpc-web"), "grpc"),
    **dict.fromkeys(("https", "tls", "kubernetes.io/wss"), "tcp"),  # which nobody but the two ends can read
    **dict.fromkeys(("tcp", "mysql", "postgres", "postgresql", "mongo", "redis", "kafka", "amqp", "nats"), "tcp"),
}


def _protocol(port: objects.Port, policy: Policy) -> Protocol:
    """The annotation, else appProtocol, else the first word of the port's name: `grpc-orders`."""
    chosen = dict(policy.protocols)
    if port.port in chosen or 0 in chosen:
        return chosen.get(port.port or 0, chosen.get(0, "auto"))
    if port.app_protocol:
        return _BY_WORD.get(port.app_protocol.lower(), "auto")
    return _BY_WORD.get((port.name or "").partition("-")[0].lower(), "auto")


def endpoint_slice(raw: Any) -> Slice | Problem | None:
    """An EndpointSlice; None if it is no Service's, or of names instead of addresses."""
    found = _convert(raw, objects.Slice, "EndpointSlice")
    if isinstance(found, Problem):
        return found
    metadata = found.metadata
    owner = (metadata.labels or {}).get(OWNER, "")
    if not owner or found.address_type not in ("IPv4", "IPv6"):
        return None
    problems: list[str] = []
    usable = [one for one in (found.endpoints or [])[:MAX_ENDPOINTS] if _serves(one)]
    located = tuple(_endpoint(one, ip) for one in usable if (ip := _kept(one, problems)))
    ports: list[tuple[str, int]] = []
    for port in (found.ports or [])[:MAX_PORTS]:
        if port.protocol not in (None, "", "TCP"):
            continue
        number = port.port or 0  # null would be every port
        if 0 < number <= MAX_PORT:
            ports.append((port.name or "", number))
        else:
            problems.append(f"port {port.port}: not from 1 to {MAX_PORT}")
    return Slice(
        key=Key(metadata.namespace, metadata.name),
        service=Key(metadata.namespace, owner),
        batch=Batch(found.address_type, tuple(ports), located),
        problems=_problems("EndpointSlice", metadata, problems),
    )


def _serves(endpoint: objects.Endpoint) -> bool:
    """Ready, or terminating and still serving, the last resort of kube-proxy as well. What is not said counts as so."""
    conditions = endpoint.conditions or objects.Conditions()
    return conditions.ready is not False or bool(conditions.terminating and conditions.serving is not False)


def _kept(endpoint: objects.Endpoint, problems: list[str]) -> str:
    """The address of an endpoint, which has one: the API says that the others mean nothing."""
    ip, why = addresses.read(endpoint.addresses[0]) if endpoint.addresses else ("", "missing")
    if not ip:
        problems.append(f"endpoint address {why}")
    return ip


def _endpoint(one: objects.Endpoint, ip: str) -> Endpoint:
    hints, target = one.hints or objects.Hints(), one.target_ref or objects.Reference()
    return Endpoint(
        address=ip,
        ready=(one.conditions or objects.Conditions()).ready is not False,
        pod=(target.name or "") if target.kind == "Pod" else "",
        node=_word(one.node_name),
        zone=_word(one.zone),
        zones=frozenset(zone.name for zone in hints.for_zones or ()),
        nodes=frozenset(node.name for node in hints.for_nodes or ()),
    )


def workload(raw: Any) -> Workload | Problem:
    """A Pod. Its name may have dots."""
    found = _convert(raw, objects.Pod, "Pod")
    if isinstance(found, Problem):
        return found
    metadata, messages = found.metadata, [*objects.unquoted(raw).values()]
    key, where = Key(metadata.namespace, metadata.name), _word(found.spec.node_name if found.spec else None)
    text = (metadata.annotations or {}).get(f"{PREFIX}upstreams", "").strip()
    names = tuple(sorted({name.strip() for name in text.split(",")})) if text else None
    if names and (len(names) > MAX_UPSTREAMS or not all(map(_UPSTREAM.fullmatch, names))):
        names = None
        messages.append(
            f"{PREFIX}upstreams: not at most {MAX_UPSTREAMS} names like orders or users.accounts; it is ignored"
        )
    return Workload(key, names, where, _problems("Pod", metadata, messages))


def node(raw: Any) -> Node | Problem:
    """A Node's metadata."""
    found = _convert(raw, objects.Object, "Node")
    if isinstance(found, Problem):
        return found
    return Node(found.metadata.name, _word((found.metadata.labels or {}).get("topology.kubernetes.io/zone")))


def _convert(raw: Any, form: type[_T], kind: str) -> _T | Problem:
    try:
        return objects.convert(raw, form)
    except (msgspec.ValidationError, RecursionError) as error:
        metadata = raw.get("metadata") if isinstance(raw, dict) else None
        named = metadata if isinstance(metadata, dict) else {}
        about = f"{kind} {named.get('namespace', 'default')!s:.63}/{named.get('name', '?')!s:.253}"
        return Problem(about, str(error), f"{named.get('uid', '')!s:.63}")


def _problem(kind: str, metadata: objects.Metadata, message: str) -> Problem:
    return Problem(f"{kind} {metadata.namespace}/{metadata.name}", message, metadata.uid)


def _problems(kind: str, metadata: objects.Metadata, messages: Sequence[str]) -> tuple[Problem, ...]:
    """The first of them: an object may have as many as it has bytes."""
    more = [f"and {len(messages) - MAX_PROBLEMS} more"] if len(messages) > MAX_PROBLEMS else []
    return tuple(_problem(kind, metadata, message) for message in (*messages[:MAX_PROBLEMS], *more))


def _word(text: str | None) -> str:
    """The name of a node or a zone, which becomes part of a resource's name; nothing, if it is no such name."""
    return text if text and _NAME.fullmatch(text) else ""
