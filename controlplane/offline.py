"""`render` and `explain`: what a pod's Envoy would be told of a cluster, from its objects on disk."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

from controlplane.extensions import Json
from controlplane.settings import Settings
from controlplane.xds import destinations, disk, explain, redirection, scope
from controlplane.xds.disk import DiskError
from controlplane.xds.identity import Identity
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.redirection import Redirection
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import World, key_of
from controlplane.xds.worlds import Directory

_About = Callable[[Translated, Choices, Caller, Redirection | None], list[str]]

OK, UNUSABLE = 0, 2  # exit codes
WIDTH = 100


def choices_of(settings: Settings) -> Choices:
    """What the settings say of resources."""
    chosen, listed = settings.controlplane, settings.sidecar.upstreams
    # What the webhook takes for the upstreams of every pod that declares none is a list, if there is one.
    scope = Scope(default="list" if listed else chosen.scope, services=listed)
    return Choices.of(settings.bootstrap, scope, chosen.cluster_domain, on_demand=chosen.on_demand)


def load(place: Path, pod: Key) -> tuple[Mesh, Redirection | None]:
    """The cluster in that file or folder, and what the pod's own spec says of its sidecar. Raises DiskError."""
    objects, world = disk.read(place), World()
    for what, found in objects.items():
        world.replace(what, found)
    return world.mesh(), next((redirection.read(one) for one in objects["Pod"] if key_of(one) == pod), None)


def caller(mesh: Mesh, pod: Key) -> Caller:
    """That pod's proxy; a pod that is not there is on no node and declares nothing."""
    return Directory(mesh)(Identity(pod.namespace, pod.name))


def told(snapshot: Translated, by: Caller) -> dict[Kind, dict[str, Json]]:
    """All that this proxy is told, by type and name; each resource has passed Envoy's rules."""
    found: dict[Kind, dict[str, Json]] = {kind: {} for kind in Kind}
    clusters, listeners = snapshot.names(Kind.CLUSTER, by), snapshot.names(Kind.LISTENER, by)
    named = {
        Kind.CLUSTER: clusters,
        Kind.ENDPOINTS: clusters,
        Kind.LISTENER: listeners,
        Kind.ROUTES: [scope.routes_name(place[0]) for name in listeners if (place := scope.read_listener_name(name))],
    }
    for kind, names in named.items():
        for name in names:
            called = snapshot.meant(kind, name, by)
            source = snapshot.source(kind, called)
            if source is not None and snapshot.get(kind, called) is not None:
                found[kind][name] = source
    return found


def render(place: Path, pod: Key, settings: Settings) -> int:
    """Prints it as JSON; returns the exit code."""
    try:
        mesh, redirected = load(place, pod)
    except DiskError as error:
        return _unusable(error)
    snapshot = Translated(mesh, choices_of(settings))
    by = caller(mesh, pod)
    resources = told(snapshot, by)
    titles = {Kind.CLUSTER: "clusters", Kind.ENDPOINTS: "endpoints", Kind.LISTENER: "listeners", Kind.ROUTES: "routes"}
    print(json.dumps({titles[kind]: list(found.values()) for kind, found in resources.items()}, indent=1))
    _warn([f"{about}: {why}" for (_, about), why in snapshot.rejected.items()])
    _warn([f"{problem.about}: {problem.message}" for problem in explain.problems(mesh)])
    _warn([f"no request is seen by Envoy: {redirected.nothing}"] if redirected and redirected.nothing else [])
    _warn(_missing(mesh, place, pod))
    return OK


def tell(place: Path, pod: Key, url: str, method: str, settings: Settings) -> int:
    """Prints, in words, where a request would go; returns the exit code."""
    return _say(
        place,
        pod,
        settings,
        lambda of, choices, by, redirected: explain.request(of, choices, by, redirected, url, method),
    )


def tell_of_calls(place: Path, pod: Key, page: str, settings: Settings) -> int:
    """The same of what the pod has called: `page` is its sidecar's /stats/destinations, a file, or - for stdin."""

    def sentences(of: Translated, choices: Choices, by: Caller, _: Redirection | None) -> list[str]:
        text = _text(page)
        try:
            return explain.calls(of, choices, by, destinations.read(text))
        except ValueError:
            raise ValueError(f"{page}: is not what a sidecar has at :15090/stats/destinations") from None

    return _say(place, pod, settings, sentences)


def _say(place: Path, pod: Key, settings: Settings, about: _About) -> int:
    try:
        mesh, redirected = load(place, pod)
        choices = choices_of(settings)
        sentences = about(Translated(mesh, choices), choices, caller(mesh, pod), redirected)
    except (DiskError, ValueError) as error:
        return _unusable(error)
    print("\n".join(line if line.startswith(" ") else _folded(line) for line in sentences))
    _warn([f"{problem.about}: {problem.message}" for problem in mesh.problems])
    _warn(_missing(mesh, place, pod))
    return OK


def _folded(line: str) -> str:
    return fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)  # the names of annotations have some


def _missing(mesh: Mesh, place: Path, pod: Key) -> list[str]:
    """What an answer is worth little without: most often it is the wrong file."""
    found = [] if any(mesh.services.values()) else [f"no Service is in {place}"]
    if not found and not mesh.endpoints:
        found.append(f"no EndpointSlice with usable endpoints is in {place}: no Service has any")
    if pod not in mesh.workloads:
        found.append(f"Pod {pod}: not in {place}: on no node, declares no upstreams")
    return found


def _text(page: str) -> str:
    """The page, from a file or, for `-`, standard input. Raises ValueError."""
    try:
        return sys.stdin.read() if page == "-" else Path(page).read_text()
    except OSError as error:
        raise ValueError(f"{page}: {error.strerror}") from None


def _unusable(error: Exception) -> int:
    print(f"controlplane: {error}", file=sys.stderr)
    return UNUSABLE


def _warn(messages: Sequence[str]) -> None:
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)
