"""All objects of the cluster, as they come and go, and the Mesh that they make: the same, however it came about.

Only what an object touches is made anew, so a change costs the same in a large cluster. Not for several threads.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, cast

from controlplane.xds import reading
from controlplane.xds.mesh import MOST_PLACES, Batch, Key, Mesh, Problem, Service, Workload
from controlplane.xds.reading import Node, Slice

What = Literal["Service", "EndpointSlice", "Pod", "Node"]
WHAT: tuple[What, ...] = ("Service", "EndpointSlice", "Pod", "Node")
_Found = Service | Slice | Workload | Node | Problem


class World:
    """What is there. `put`, `remove` and `replace` take Kubernetes' objects as JSON."""

    def __init__(self) -> None:
        self._there: dict[What, dict[Key, _Found]] = {what: {} for what in WHAT}
        self._slices: defaultdict[Key, dict[Key, Slice]] = defaultdict(dict)  # by Service
        self._touched: set[Key] = set()  # Services whose endpoints may differ
        self._fewer: set[Key] = set()  # those of them that lost one
        self._services: set[Key] = set()  # Services that may differ themselves
        self._twice: dict[What, frozenset[Problem]] = {}
        self._rest = False
        self._mesh = Mesh()

    def put(self, what: What, raw: Any) -> None:
        """An object is there, or is another now."""
        name = key_of(raw)
        try:
            found = _read(what, raw)
        except Exception as bug:  # a bug of ours in one object must not keep all others from being told
            found = Problem(f"{what} {name}", f"cannot be read, by a fault of the control plane: {type(bug).__name__}")
        if found is None:
            self.remove(what, name)
        elif self._there[what].get(name) != found:
            self._leave(what, name, found)
            self._there[what][name] = found
            self._arrive(name, found)

    def remove(self, what: What, name: Key) -> None:
        """An object is gone."""
        self._leave(what, name)
        self._there[what].pop(name, None)

    def replace(self, what: What, raws: Iterable[Any]) -> None:
        """These are all the objects of their kind. Of two that have one name, as files may have, the last counts."""
        seen, twice = set[Key](), set[Problem]()
        for raw in raws:
            name = key_of(raw)
            if name in seen and name.name:
                twice.add(Problem(f"{what} {name}", "is there more than once: the last one counts"))
            seen.add(name)
            self.put(what, raw)
        for name in self._there[what].keys() - seen:
            self.remove(what, name)
        if twice != self._twice.get(what, set()):
            self._twice[what], self._rest = frozenset(twice), True

    @property
    def touched(self) -> frozenset[Key]:
        """Services whose endpoints differ from what `mesh` returned last."""
        return frozenset(self._touched)

    @property
    def fewer(self) -> frozenset[Key]:
        """Those of them that may have lost an endpoint."""
        return frozenset(self._fewer)

    @property
    def rest(self) -> bool:
        """Whether anything else differs."""
        return self._rest or bool(self._services)

    def mesh(self, of: Iterable[Key] | None = None, *, rest: bool = True) -> Mesh:
        """The Mesh, with the endpoints of these Services as they are now (None: of all); `rest`: all else too.

        A Service whose slices mean something else by now goes with its endpoints.
        """
        chosen = set(self._touched if of is None else self._touched & set(of)) | (self._services if rest else set())
        services = {name for name in self._services & chosen if rest or self._reads_otherwise(name)}
        self._mesh = Mesh(
            services=self._merged_services(services) if services else self._mesh.services,
            endpoints=self._merged_endpoints(chosen),
            zones=self._zones() if rest and self._rest else self._mesh.zones,
            workloads=self._workloads() if rest and self._rest else self._mesh.workloads,
            problems=self._problems() if rest and self._rest else self._mesh.problems,
        )
        self._touched -= chosen
        self._fewer -= chosen
        self._services -= services
        self._rest = self._rest and not rest
        return self._mesh

    def _arrive(self, name: Key, found: _Found) -> None:
        match found:
            case Service():
                self._services.add(name)
            case Slice(service=service):
                self._slices[service][name] = found
                self._touched.add(service)
                self._rest = self._rest or bool(found.problems) or self._places(service) > MOST_PLACES
            case _:
                self._rest = True

    def _leave(self, what: What, name: Key, now: _Found | None = None) -> None:
        match self._there[what].get(name):
            case None:
                return
            case Service():
                self._services.add(name)
            case Slice(service=service) as former:
                self._rest = self._rest or bool(former.problems) or self._places(service) > MOST_PLACES
                self._slices[service].pop(name, None)
                self._touched.add(service)
                if former.has_more_than(now if isinstance(now, Slice) else None):
                    self._fewer.add(service)
            case _:
                self._rest = True

    def _reads_otherwise(self, name: Key) -> bool:
        """Whether a Service gives its slices another meaning: told without it, its ports may be without endpoints."""
        was, now = self._mesh.service(name), self._there["Service"].get(name)
        if was is None or not isinstance(now, Service):
            return False
        return (was.form, was.families, was.ports) != (now.form, now.families, now.ports)

    def _merged_services(self, names: Collection[Key]) -> Mapping[str, Mapping[str, Service]]:
        merged = dict(self._mesh.services)
        for namespace in {name.namespace for name in names}:
            merged[namespace] = dict(merged.get(namespace, {}))
        for name in names:
            found = self._there["Service"].get(name)
            own = cast("dict[str, Service]", merged[name.namespace])
            if isinstance(found, Service):
                own[name.name] = found
            else:
                own.pop(name.name, None)
        return {namespace: own for namespace, own in merged.items() if own}

    def _merged_endpoints(self, chosen: Iterable[Key]) -> Mapping[Key, tuple[Batch, ...]]:
        if not chosen:
            return self._mesh.endpoints
        merged = dict(self._mesh.endpoints)
        for name in chosen:
            service = self._there["Service"].get(name)
            slices = self._slices.get(name, {})
            if not slices:
                self._slices.pop(name, None)
            former = merged.pop(name, ())
            now = _batches(slices) if isinstance(service, Service) else ()
            if now:
                merged[name] = former if former == now else now
        return merged

    def _zones(self) -> Mapping[str, str]:
        now = {node.name: node.zone for node in self._there["Node"].values() if isinstance(node, Node)}
        return self._mesh.zones if now == self._mesh.zones else now

    def _workloads(self) -> Mapping[Key, Workload]:
        now = {name: pod for name, pod in self._there["Pod"].items() if isinstance(pod, Workload)}
        return self._mesh.workloads if now == self._mesh.workloads else now

    def _places(self, service: Key) -> int:
        """How many there are at which a port of that Service is served."""
        batches = (one.batch for one in self._slices.get(service, {}).values())
        return sum(len(batch.ports) * len(batch.endpoints) for batch in batches)

    def _problems(self) -> tuple[Problem, ...]:
        found: set[Problem] = set().union(*self._twice.values())
        for objects in self._there.values():
            for one in objects.values():
                match one:
                    case Problem():
                        found.add(one)
                    case Slice(problems=problems) | Workload(problems=problems):
                        found.update(problems)
                    case _:
                        pass
        message = f"of all ports together, more than {MOST_PLACES} endpoints: each port has the first of its own only"
        for name in self._slices:
            if self._places(name) > MOST_PLACES:
                service = self._there["Service"].get(name)
                found.add(Problem(f"Service {name}", message, service.uid if isinstance(service, Service) else ""))
        return tuple(sorted(found, key=lambda problem: (problem.about, problem.message)))


def _batches(slices: Mapping[Key, Slice]) -> tuple[Batch, ...]:
    """What has endpoints, in the order of the slices' names."""
    batches = (slices[name].batch for name in sorted(slices))
    return tuple(batch for batch in batches if batch.endpoints and batch.ports)


def key_of(raw: Any) -> Key:
    """The namespace and name of an object, as far as it has them; nodes have no namespace."""
    metadata = raw.get("metadata") if isinstance(raw, Mapping) else None
    named = metadata if isinstance(metadata, Mapping) else {}
    return Key(str(named.get("namespace") or "default"), str(named.get("name") or ""))


def _read(what: What, raw: Any) -> _Found | None:
    match what:
        case "Service":
            return reading.service(raw)
        case "EndpointSlice":
            return reading.endpoint_slice(raw)
        case "Pod":
            return reading.workload(raw)
        case "Node":
            return reading.node(raw)
