"""`render` and `explain`: what a pod's Envoy would be told of a cluster, from its objects on disk."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from controlplane.extensions import Json
from controlplane.settings import Settings
from controlplane.xds import disk, explain
from controlplane.xds.disk import DiskError
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import World

OK, UNUSABLE = 0, 2  # exit codes
WIDTH = 100


class Read(NamedTuple):
    """A cluster from disk, and the pods' objects, whose specs a cluster would have told by tokens."""

    mesh: Mesh
    pods: dict[Key, Any]


def choices_of(settings: Settings) -> Choices:
    """What the settings say of resources."""
    chosen, listed = settings.controlplane, settings.sidecar.upstreams
    # What the webhook takes for the upstreams of every pod that declares none is a list, if there is one.
    scope = Scope(default="list" if listed else chosen.scope, services=listed)
    return Choices.of(settings.bootstrap, scope, chosen.cluster_domain)


def load(place: Path) -> Read:
    """The cluster in that file or folder. Raises DiskError."""
    world = World()
    objects = disk.read(place)
    for what, found in objects.items():
        world.replace(what, found)
    pods = {Key(one["metadata"].get("namespace", "default"), one["metadata"]["name"]): one for one in objects["Pod"]}
    return Read(world.mesh(), pods)


def caller(read: Read, pod: Key) -> Caller:
    """That pod's proxy; a pod that is not there is on no node and declares nothing."""
    spec = read.pods.get(pod, {}).get("spec") or {}
    node = str(spec.get("nodeName") or "")
    workload = read.mesh.workloads.get(pod)
    return Caller(
        namespace=pod.namespace,
        pod=pod.name,
        service_account=str(spec.get("serviceAccountName") or "default"),
        node=node,
        zone=read.mesh.zones.get(node, ""),
        upstreams=(workload.upstreams if workload else None) or (),
    )


def told(snapshot: Translated, by: Caller) -> dict[Kind, dict[str, Json]]:
    """All that this proxy is told, by type and name; each resource has passed Envoy's rules."""
    found: dict[Kind, dict[str, Json]] = {kind: {} for kind in Kind}
    for kind, others in ((Kind.CLUSTER, Kind.ENDPOINTS), (Kind.LISTENER, Kind.ROUTES)):
        for name in snapshot.names(kind, by):
            for each, called in ((kind, name), (others, name.replace("out_", "http_", 1) if "out_" in name else name)):
                source = snapshot.source(each, called)
                if source is not None and snapshot.get(each, called) is not None:
                    found[each][called] = source
    return found


def render(place: Path, pod: Key, settings: Settings) -> int:
    """Prints it as JSON; returns the exit code."""
    try:
        read = load(place)
    except DiskError as error:
        return _unusable(error)
    snapshot = Translated(read.mesh, choices_of(settings))
    by = caller(read, pod)
    resources = told(snapshot, by)
    titles = {Kind.CLUSTER: "clusters", Kind.ENDPOINTS: "endpoints", Kind.LISTENER: "listeners", Kind.ROUTES: "routes"}
    print(json.dumps({titles[kind]: list(found.values()) for kind, found in resources.items()}, indent=1))
    _warn([f"{about}: {why}" for (_, about), why in snapshot.rejected.items()])
    _warn([f"{problem.about}: {problem.message}" for problem in explain.problems(read.mesh)])
    if pod not in read.pods:
        _warn([f"Pod {pod}: not in {place}: on no node, declares no upstreams"])
    return OK


def tell(place: Path, pod: Key, url: str, method: str, settings: Settings) -> int:
    """Prints, in words, where a request would go; returns the exit code."""
    try:
        read = load(place)
    except DiskError as error:
        return _unusable(error)
    choices = choices_of(settings)
    by = caller(read, pod)
    try:
        sentences = explain.request(Translated(read.mesh, choices), choices, by, url, method)
    except ValueError as error:
        return _unusable(error)
    print("\n".join(line if line.startswith(" ") else fill(line, WIDTH, subsequent_indent="  ") for line in sentences))
    return OK


def _unusable(error: Exception) -> int:
    print(f"controlplane: {error}", file=sys.stderr)
    return UNUSABLE


def _warn(messages: Sequence[str]) -> None:
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)
