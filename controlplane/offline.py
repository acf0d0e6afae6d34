"""`render` and `explain`: what a pod's Envoy would be told of a cluster, from its objects on disk."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

from controlplane.extensions import Json
from controlplane.settings import Settings
from controlplane.xds import destinations, disk, explain, scope
from controlplane.xds.disk import DiskError
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import World
from controlplane.xds.worlds import Directory

OK, UNUSABLE = 0, 2  # exit codes
WIDTH = 100


def choices_of(settings: Settings) -> Choices:
    """What the settings say of resources."""
    chosen, listed = settings.controlplane, settings.sidecar.upstreams
    # What the webhook takes for the upstreams of every pod that declares none is a list, if there is one.
    scope = Scope(default="list" if listed else chosen.scope, services=listed)
    return Choices.of(settings.bootstrap, scope, chosen.cluster_domain, on_demand=chosen.on_demand)


def load(place: Path) -> Mesh:
    """The cluster in that file or folder. Raises DiskError."""
    world = World()
    for what, found in disk.read(place).items():
        world.replace(what, found)
    return world.mesh()


def caller(mesh: Mesh, pod: Key) -> Caller:
    """That pod's proxy; a pod that is not there is on no node and declares nothing."""
    return Directory(mesh)(Caller(pod.namespace, pod.name))


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
        mesh = load(place)
    except DiskError as error:
        return _unusable(error)
    snapshot = Translated(mesh, choices_of(settings))
    by = caller(mesh, pod)
    resources = told(snapshot, by)
    titles = {Kind.CLUSTER: "clusters", Kind.ENDPOINTS: "endpoints", Kind.LISTENER: "listeners", Kind.ROUTES: "routes"}
    print(json.dumps({titles[kind]: list(found.values()) for kind, found in resources.items()}, indent=1))
    _warn([f"{about}: {why}" for (_, about), why in snapshot.rejected.items()])
    _warn([f"{problem.about}: {problem.message}" for problem in explain.problems(mesh)])
    _warn(_missing(mesh, place, pod))
    return OK


def tell(place: Path, pod: Key, url: str, method: str, settings: Settings) -> int:
    """Prints, in words, where a request would go; returns the exit code."""
    return _say(place, pod, settings, lambda of, choices, by: explain.request(of, choices, by, url, method))


def tell_of_calls(place: Path, pod: Key, page: str, settings: Settings) -> int:
    """The same of what the pod has called: `page` is its sidecar's /stats/destinations, a file, or - for stdin."""

    def sentences(of: Translated, choices: Choices, by: Caller) -> list[str]:
        text = _text(page)
        try:
            return explain.calls(of, choices, by, destinations.read(text))
        except ValueError:
            raise ValueError(f"{page}: is not what a sidecar has at :15090/stats/destinations") from None

    return _say(place, pod, settings, sentences)


def _say(place: Path, pod: Key, settings: Settings, about: Callable[[Translated, Choices, Caller], list[str]]) -> int:
    try:
        mesh = load(place)
        choices = choices_of(settings)
        sentences = about(Translated(mesh, choices), choices, caller(mesh, pod))
    except (DiskError, ValueError) as error:
        return _unusable(error)
    print("\n".join(line if line.startswith(" ") else fill(line, WIDTH, subsequent_indent="  ") for line in sentences))
    _warn(_missing(mesh, place, pod))
    return OK


def _missing(mesh: Mesh, place: Path, pod: Key) -> list[str]:
    """What an answer is worth little without: most often it is the wrong file."""
    found = [] if any(mesh.services.values()) else [f"no Service is in {place}"]
    if pod not in mesh.workloads:
        found.append(f"Pod {pod}: not in {place}: on no node, declares no upstreams")
    return found


def _text(page: str) -> str:
    """Raises ValueError."""
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
