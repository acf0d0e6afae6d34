"""Not everything goes at once: what would remove more than half of the mesh is held back until an operator's word.

An API server that was restored from nothing, or a selector gone wrong, looks like that; so does nothing that is meant.
It may come as a list or as thousands of deletions, so what counts is what was told some seconds ago. What is added or
changed is told all the same, and so is what goes from a namespace that lost no more than half of its own: whoever makes
many Services and deletes them holds up nobody else.

Pods come and go by themselves, a hundred at once when a Job ends. Only when none is left, or no node, are those that
there were remembered: that costs nobody anything, and needs nobody's word.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

from controlplane.xds.mesh import Batch, Endpoint, Key, Mesh, Service

FEW = 10  # of which any number may go
SECONDS = 2.0  # what goes within these goes at once


@dataclass(slots=True)
class Guard:
    """Remembers what was passed lately, and whether the operator has given his word."""

    refusals: int = 0
    holding: str = ""  # what is held back, in words

    _held: frozenset[str] = frozenset()  # the namespaces where it is
    _released: bool = False
    _passed: Mesh | None = None  # last
    _since: float = 0.0
    _then: Mesh | None = None  # at `_since`
    _earlier: Mesh | None = None  # SECONDS before that, or less than twice as many: what is compared with

    def release(self) -> None:
        """The operator's word: what is held back now may go."""
        self._released = bool(self.holding)

    def passes(self, mesh: Mesh, now: float) -> Mesh:
        """What may be told of it, at this moment of any monotonic clock, in seconds."""
        former, held, holding = self._former(now), frozenset[str](), ""
        if former is not None and self._passed is not None and not self._released:
            mesh = _with_callers(self._passed, mesh)
            held, holding = self._missing(former, mesh)
        if held and former is not None:
            self.refusals += not self.holding
            mesh = _without_removals(former, mesh, held)
        if former is None or self._released:
            self._earlier, self._then, self._since = mesh, mesh, now
        if self._then is None or (not held and self._missing(self._then, mesh)[0]):
            self._then = mesh  # or what was let go would come back
        self._passed, self.holding, self._held = mesh, holding, held
        self._released = False
        return mesh

    def _former(self, now: float) -> Mesh | None:
        """What had been passed SECONDS ago, or up to twice as many: of all between, nothing is remembered."""
        age = now - self._since
        if age >= SECONDS:
            self._earlier = self._then if age < 2 * SECONDS else self._passed
            self._then, self._since = None, now  # what passes now
        return self._earlier

    def _missing(self, former: Mesh, mesh: Mesh) -> tuple[frozenset[str], str]:
        """Where what is held back is missing, and how much."""
        held: set[str] = set()
        words: list[str] = []
        for what, total, by_namespace in _KINDS:
            if _is_too_much(total(former), total(mesh)):
                lost = self._lost(by_namespace(former), by_namespace(mesh))
                words.append(f"{sum(lost.values())} of {total(former)} {what}")
                held |= lost.keys()
        return frozenset(held), ", ".join(words)

    def _lost(self, was: Mapping[str, int], now: Mapping[str, int]) -> Mapping[str, int]:
        """How many are gone from each namespace that lost more than half. While some are held, others join these only
        if it is too much without them as well: then it is not the doing of those.
        """
        lost = {name: count - now.get(name, 0) for name, count in was.items() if now.get(name, 0) * 2 < count}
        rest = [sum(count for name, count in one.items() if name not in self._held) for one in (was, now)]
        among_held = {name: count for name, count in lost.items() if name in self._held}
        return among_held if among_held and not _is_too_much(*rest) else lost


def _is_too_much(was: int, now: int) -> bool:
    return was > FEW and now * 2 < was


# What is counted: in all, which is quick, and of each namespace.
_KINDS: tuple[tuple[str, Callable[[Mesh], int], Callable[[Mesh], Mapping[str, int]]], ...] = (
    (
        "Services",
        lambda mesh: sum(map(len, mesh.services.values())),
        lambda mesh: {name: len(own) for name, own in mesh.services.items()},
    ),
    (
        "Services with endpoints",
        lambda mesh: len(mesh.endpoints),
        lambda mesh: Counter(key.namespace for key in mesh.endpoints),
    ),
)


def _with_callers(former: Mesh, mesh: Mesh) -> Mesh:
    """An empty list of pods would show all proxies other Services than they declare; one of nodes, what is not near."""
    if (mesh.workloads or not former.workloads) and (mesh.zones or not former.zones):
        return mesh
    return replace(mesh, workloads=mesh.workloads or former.workloads, zones=mesh.zones or former.zones)


def _without_removals(former: Mesh, mesh: Mesh, held: Set[str]) -> Mesh:
    live = {ip for service in mesh.all_services() for ip in service.addresses}
    services = dict(mesh.services)
    for name in held:
        own = services.get(name, {})
        gone = {key: one for key, one in former.services.get(name, {}).items() if key not in own}
        services[name] = {**{key: _without(one, live) for key, one in gone.items()}, **own}
    lost = {
        key: batches for key, batches in former.endpoints.items() if key.namespace in held and key not in mesh.endpoints
    }
    return replace(
        mesh,
        services=services,
        endpoints={**_still_theirs(lost, mesh), **mesh.endpoints},
    )


def _still_theirs(lost: Mapping[Key, tuple[Batch, ...]], mesh: Mesh) -> Mapping[Key, tuple[Batch, ...]]:
    """Without those at whose address and port another pod serves by now: it would get requests that are not its own.

    Only the port tells, for pods of the node's network share its address.
    """
    now = _pods(mesh.endpoints)
    kept = {}
    for key, batches in lost.items():
        left = tuple(found for batch in batches if (found := _still_there(key.namespace, batch, now)).endpoints)
        if left:
            kept[key] = batches if left == batches else left
    return kept


def _pods(endpoints: Mapping[Key, tuple[Batch, ...]]) -> Mapping[tuple[str, int], Set[tuple[str, str]]]:
    """Who serves where; pods may be endpoints of several Services."""
    found: defaultdict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
    for key, batches in endpoints.items():
        for batch in batches:
            for one in batch.endpoints:
                for _, port in batch.ports if one.pod else ():
                    found[one.address, port].add((key.namespace, one.pod))
    return found


def _still_there(namespace: str, batch: Batch, now: Mapping[tuple[str, int], Set[tuple[str, str]]]) -> Batch:
    def is_theirs(one: Endpoint) -> bool:
        return all(
            (namespace, one.pod) in now.get((one.address, port), {(namespace, one.pod)}) for _, port in batch.ports
        )

    return replace(batch, endpoints=tuple(one for one in batch.endpoints if is_theirs(one)))


def _without(service: Service, live: Set[str]) -> Service:
    """A ClusterIP that is another Service's by now means that one."""
    if live.isdisjoint(service.addresses):
        return service
    return replace(service, addresses=tuple(ip for ip in service.addresses if ip not in live))
