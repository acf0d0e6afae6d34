"""Each Mesh, as the server takes it over: the next snapshot, and who is who in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.xds.identity import Identity
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.snapshot import Caller, Kind, Snapshot
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated


@dataclass(frozen=True, slots=True, eq=False)
class Directory:
    """Who is who in a Mesh. A pod that it does not know yet is told what declares nothing."""

    mesh: Mesh

    def __call__(self, identity: Identity) -> Caller:
        """The caller that a token stands for."""
        workload = self.mesh.workloads.get(Key(identity.namespace, identity.pod))
        node = identity.node or (workload.node if workload else "")
        return Caller(
            namespace=identity.namespace,
            pod=identity.pod,
            service_account=identity.service_account,
            node=node,
            zone=self.mesh.zones.get(node, ""),
            upstreams=(workload.upstreams if workload else None) or (),
        )


Make = Callable[[Snapshot | None], tuple[Snapshot, Directory]]


class Worlds:
    """Hands on to `publish`, which calls what it gets with the former snapshot, one at a time, the newest at last."""

    def __init__(self, publish: Callable[[Make], None], choices: Choices) -> None:
        self._publish, self._choices = publish, choices
        self._directory = Directory(Mesh())
        self.rejected: Mapping[tuple[Kind, str], str] = {}  # what Envoy's own rules forbid: its last good one stays

    def take(self, mesh: Mesh) -> None:
        """There is another Mesh."""
        self._publish(lambda former: self._next(former, mesh))

    def _next(self, former: Snapshot | None, mesh: Mesh) -> tuple[Snapshot, Directory]:
        snapshot = former.next(mesh) if isinstance(former, Translated) else Translated(mesh, self._choices)
        self.rejected = snapshot.rejected
        known = self._directory.mesh
        if (mesh.workloads, mesh.zones) != (known.workloads, known.zones):
            self._directory = Directory(mesh)
        return snapshot, self._directory
