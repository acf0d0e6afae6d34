"""Not everything goes at once: what would remove more than half of the mesh is held back until an operator's word.

An API server that was restored from nothing, or a selector gone wrong, looks like that; so does nothing that is meant.
What is added or changed is told all the same.
"""

from dataclasses import dataclass, replace

from controlplane.xds.mesh import Mesh

FEW = 10  # of which any number may go


@dataclass(slots=True)
class Guard:
    """Remembers what was passed last, and whether the operator has given his word."""

    passed: Mesh | None = None
    refusals: int = 0
    holding: str = ""  # what is held back, in words

    _released: bool = False

    def release(self) -> None:
        """The operator's word: what is held back now may go."""
        self._released = bool(self.holding)

    def passes(self, mesh: Mesh) -> Mesh:
        """What may be told of it."""
        former, held = self.passed, ""
        if former is not None and not self._released:
            held = _missing(former, mesh)
        if held and former is not None:
            self.refusals += not self.holding
            mesh = _without_removals(former, mesh)
        self.passed, self.holding = mesh, held
        self._released = False
        return mesh


def _missing(former: Mesh, mesh: Mesh) -> str:
    """What more than half is missing of; the Services that have endpoints count as well as the Services."""
    counts = (
        ("Services", _services(former), _services(mesh)),
        ("Services with endpoints", len(former.endpoints), len(mesh.endpoints)),
    )
    return ", ".join(f"{was - now} of {was} {what}" for what, was, now in counts if was > FEW and now * 2 < was)


def _services(mesh: Mesh) -> int:
    return sum(map(len, mesh.services.values()))


def _without_removals(former: Mesh, mesh: Mesh) -> Mesh:
    namespaces = {**former.services, **mesh.services}
    return replace(
        mesh,
        services={name: {**former.services.get(name, {}), **own} for name, own in namespaces.items()},
        endpoints={**former.endpoints, **mesh.endpoints},
    )
