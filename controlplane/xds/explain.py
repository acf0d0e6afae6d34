"""In words: where a request from a pod to a host would go, on which terms, and why. Says what `translate` does."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from controlplane.xds import destinations, endpoints, routes, scope, terms
from controlplane.xds.annotations import PREFIX
from controlplane.xds.destinations import Called
from controlplane.xds.endpoints import Nearness
from controlplane.xds.mesh import Endpoint, Key, Locality, Mesh, Port, Problem, Service
from controlplane.xds.redirection import Redirection, Seen, Unseen
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated

UPSTREAMS = f"{PREFIX}upstreams"
MAX_SHOWN = 8  # endpoints


def problems(mesh: Mesh) -> list[Problem]:
    """What is wrong with the cluster's objects."""
    return [*mesh.problems, *(problem for service in mesh.all_services() for problem in service.problems)]


def request(
    snapshot: Translated,
    choices: Choices,
    by: Caller,
    redirection: Redirection | None,
    url: str,
    method: str = "GET",
) -> list[str]:
    """The sentences. `url` is `http://orders:80/path`, or only `orders:80`. Raises ValueError if it is neither.

    Without `redirection`, that of the caller's pod, it is taken for granted that the sidecar sees the request.
    """
    host, number, is_tls = _host(url)
    found = _service(snapshot.mesh, choices, by, host)
    ways = {address: redirection.of(address, number) for address in _dialled(host, found)} if redirection else {}
    lines = [f"{method} {host}:{number} from {by.namespace}/{by.pod}{_place(by)}", ""]
    unseen = [way.why for way in ways.values() if isinstance(way, Unseen)]
    if ways and len(unseen) == len(ways):
        lines += [f"No sidecar sees it: {unseen[0]}.", f"It goes to where the application dials, {_WITHOUT}."]
        return [*lines, *(_complaints(found) if found else ())]
    if found is None:
        lines.append(f"{_no_service(snapshot.mesh, by, host)}: it passes through to the address that was dialled.")
    else:
        opaque = next((way.opaque for way in ways.values() if isinstance(way, Seen)), "") or (_TLS if is_tls else "")
        lines += _told(snapshot, choices, by, found, number, method, opaque)
    return [*lines, *_exceptions(ways), *(_complaints(found) if found else ())]


def calls(snapshot: Translated, choices: Choices, by: Caller, called: Called) -> list[str]:
    """The sentences about what a pod has called, with the line that declares it."""
    seen = snapshot.views.services(snapshot.views.of(by))
    found = {address: service for address, service, _ in destinations.addresses(snapshot.mesh)}
    passed = sorted(
        (one.key, address, called.passed[address]) for address, one in found.items() if called.passed.get(address)
    )
    told = sorted((key, count) for key, count in called.told.items() if count and snapshot.mesh.service(key))
    used = {*(key for key, _, _ in passed), *(key for key, _ in told)}
    names = sorted({*by.upstreams, *(_name(key, by) for key in used)})
    if not used:
        return [f"{by.namespace}/{by.pod} has called no Service of the cluster lately."]
    return [
        f"What {by.namespace}/{by.pod} calls, by what its sidecar counts:",
        *(
            f"{key} at {address} passed through {_times(count)}: {_why(choices, by, found[address], seen)}."
            for key, address, count in passed
        ),
        *(f"{key} was called {_times(count)}, as its sidecar is told." for key, count in told),
        "To be told of all of it, and of nothing else, in the pod's template:",
        f'  {UPSTREAMS}: "{",".join(names)}"',
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _why(choices: Choices, by: Caller, service: Service, seen: Sequence[Service]) -> str:
    """Why what was sent to a Service passed through."""
    if service in seen:
        return "it is told, but the host that was named is none of its names, or it was told later"
    return f"it is not {_missing(choices, by, service)}"


def _missing(choices: Choices, by: Caller, service: Service) -> str:
    if _declares_others(by, service):
        return "among the upstreams that the pod declares"
    if service.locality == "node-only":
        return "told to pods whose node is not known, for its internalTrafficPolicy is Local"
    return f"in the default scope, {choices.scope.default}"


def _declares_others(by: Caller, service: Service) -> bool:
    return bool(by.upstreams) and all(scope.key(name, by.namespace) != service.key for name in by.upstreams)


def _host(url: str) -> tuple[str, int, bool]:
    """The host, the port, and whether it is asked by TLS."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    port = _port(parts)
    if not parts.hostname or port is None:
        raise ValueError(f"{url!r}: use a host and port, such as orders:80")
    return parts.hostname, port, parts.scheme in ("https", "wss")


def _port(parts: SplitResult) -> int | None:
    try:
        return (443 if parts.scheme in ("https", "wss") else 80) if parts.port is None else parts.port
    except ValueError:
        return None


def _place(by: Caller) -> str:
    return f", on node {by.node}{f' in zone {by.zone}' if by.zone else ''}" if by.node else ""


def _dialled(host: str, service: Service | None) -> Sequence[str]:
    """The addresses that the application may dial: at least one, which is empty if only DNS knows."""
    try:
        return (str(ip_address("127.0.0.1" if host == "localhost" else host)),)
    except ValueError:
        return (service.addresses if service and service.form == "balanced" else ()) or ("",)


_TLS = "what goes by TLS, nobody but its two ends can read"
_WITHOUT = "without retries, limits or ejection"


def _exceptions(ways: Mapping[str, Seen | Unseen]) -> Iterator[str]:
    """Where all that does not hold."""
    for address, way in ways.items():
        match way:
            case Unseen(why):
                yield f"Not at {address}, where no sidecar sees it: {why}."
            case Seen(unless=unless) if unless:
                yield f"No sidecar sees it if {unless}."
            case _:
                pass


def _service(mesh: Mesh, choices: Choices, by: Caller, host: str) -> Service | None:
    """The Service of that name or ClusterIP, in view or not."""
    wanted = {host, f"[{host}]"}
    own = mesh.service(Key(by.namespace, host.partition(".")[0]))
    if own is not None and wanted & set(routes.hosts(own, by.namespace, choices.domain)):
        return own
    every = mesh.all_services()
    return next((one for one in every if wanted & set(routes.hosts(one, by.namespace, choices.domain))), None)


def _no_service(mesh: Mesh, by: Caller, host: str) -> str:
    name, namespace, *_ = *host.split("."), by.namespace
    about = f"Service {Key(namespace, name)}"
    unusable = next((f"{about} cannot be used ({one.message})" for one in mesh.problems if one.about == about), "")
    return unusable or f"{host} is no Service of the cluster"


def _told(
    snapshot: Translated, choices: Choices, by: Caller, service: Service, number: int, method: str, opaque: str
) -> Iterator[str]:
    port = service.port(number)
    if service.form == "external":
        yield f"Service {service.key} is an ExternalName: it passes through to the address that was dialled."
    elif service.form == "headless":
        yield f"Service {service.key} is headless: it passes through to the pod that was dialled, never to another."
    elif port is None:
        yield f"Service {service.key} has no TCP port {number}{_ports(service)}: it passes through."
    elif service not in snapshot.views.services(snapshot.views.of(by)):
        yield from _out_of_view(choices, by, service)
    elif port.protocol == "tcp" and not service.addresses:
        yield f"Service {service.key} has no usable ClusterIP, which alone tells TCP from other TCP: it passes through."
    elif opaque and port.protocol != "tcp":
        yield f"It passes through as TCP to where kube-proxy sends it, {_WITHOUT}: {opaque}."
        yield f"That a Service carries TCP, it says by {PREFIX}protocol, by appProtocol, or by the name of its port."
    else:
        if opaque:
            yield f"No request is looked for: {opaque}."
        yield from _in_view(snapshot, by, service, port, method)
        if choices.waits(snapshot.views.of(by)) and port.protocol != "tcp":
            yield "On demand: the first request waits until the control plane has told of it; without one, it gets 503."


def _ports(service: Service) -> str:
    return f" (it has {', '.join(str(port.number) for port in service.ports)})" if service.ports else ""


def _out_of_view(choices: Choices, by: Caller, service: Service) -> Iterator[str]:
    helps = _declares_others(by, service) or service.locality != "node-only"  # to declare it
    yield (
        f"It passes through to where kube-proxy sends it, {_WITHOUT}: {service.key} is not "
        f"{_missing(choices, by, service)}.{_CHANGE if helps else ''}"
    )
    if helps:
        names = ",".join(sorted({*by.upstreams, _name(service.key, by)}))
        whole = "" if by.upstreams else "  # and the others that it calls: a declaration is the whole scope"
        yield f'  {UPSTREAMS}: "{names}"{whole}'


_CHANGE = " To change that, in the pod's template:"


def _name(key: Key, by: Caller) -> str:
    return key.name if key.namespace == by.namespace else f"{key.name}.{key.namespace}"


def _in_view(snapshot: Translated, by: Caller, service: Service, port: Port, method: str) -> Iterator[str]:
    name = scope.cluster_name(service, port)
    why = "the pod declares it" if by.upstreams else "the default scope has it"
    yield f"Service {service.key}, port {port.number}{f' ({port.name})' if port.name else ''}: {why}. Cluster {name}."
    if snapshot.get(Kind.CLUSTER, name) and (refused := snapshot.rejected.get((Kind.CLUSTER, name))):
        yield f"The control plane cannot use this cluster, and tells of none: its calls pass through. {refused}"
    every = snapshot.mesh.endpoints_of(service, port)
    ranks = endpoints.ranked(service.locality, by.node, by.zone, every)
    preference = _preference(service.locality, by, every, ranks[0][0] if ranks else "anywhere")
    if not ranks:
        ends = "The connection is closed" if port.protocol == "tcp" else "The answer is 503, no healthy upstream"
        yield f"Endpoints: {preference}none. {ends}."
    yield from _endpoints(preference, ranks)
    yield from terms.of(service, port, method)


def _preference(locality: Locality, by: Caller, every: Sequence[Endpoint], nearest: Nearness) -> str:
    match locality:
        case "any":
            return ""
        case "node-only":
            return "on the caller's node only, "
        case "zone" if not by.zone:
            return "the caller's zone is not known, so wherever they are, "
        case "node" if not by.node:
            return "the caller's node is not known, so wherever they are, "
        case _ if every and not any(endpoints.hints(locality, every)):
            return f"not each has a hint for whom it is, so whatever the caller's {locality}, "
        case _ if nearest == locality or not every:
            return f"{_NEAR[locality]} first, "
        case _:
            return f"none is {_NEAR[locality]}, so {f'{_NEAR[nearest]} first, ' if nearest != 'anywhere' else ''}"


_NEAR = {"node": "on the caller's node", "zone": "in the caller's zone"}


def _endpoints(preference: str, ranks: Sequence[tuple[Nearness, Sequence[Endpoint]]]) -> Iterator[str]:
    for rank, (nearness, group) in enumerate(ranks):
        shown = ", ".join(f"{one.address}:{one.port}{f' ({one.pod})' if one.pod else ''}" for one in group[:MAX_SHOWN])
        more = f" and {len(group) - MAX_SHOWN} more" if len(group) > MAX_SHOWN else ""
        last = "" if group[0].ready else "; all are terminating, and the last resort"
        near = f"{_NEAR[nearness]}, " if nearness in _NEAR else ""
        yield f"{'Endpoints: ' + preference if not rank else 'Else: ' + near}{shown}{more}{last}."


def _complaints(service: Service) -> list[str]:
    found = [f"! {problem.message}" for problem in service.problems]
    return ["", f"Wrong with Service {service.key}; the rest of it applies:", *found] if found else []
