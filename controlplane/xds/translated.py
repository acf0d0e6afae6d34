"""The Snapshot of a Mesh: each resource is translated when somebody asks for it, and kept while what it is made of is.

What a proxy does not use costs nothing. One that does not pass Envoy's own rules is never handed out: the last good one
stays, or what is told instead, and `rejected` tells. Not for several threads.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set

from controlplane.extensions import Json
from controlplane.xds import scope, translate, views
from controlplane.xds.making import Making, at_once, encoding, finished
from controlplane.xds.mesh import Key, Mesh, services_that_differ, services_whose_endpoints_differ
from controlplane.xds.messages import InvalidResource
from controlplane.xds.scope import View
from controlplane.xds.snapshot import Caller, Kind, Resource, Snapshot
from controlplane.xds.translate import Choices, Recipe
from controlplane.xds.views import OF_VIEW, Views

Name = tuple[Kind, str]
_OF_SERVICE = (Kind.CLUSTER, Kind.ENDPOINTS)
MOST_REMAINS = 128  # ports of a view: any proxy may say that it has some, and each is some KB here and in its Envoy


class Translated:
    """Implements Snapshot. `next` gives that of the next Mesh, and shares with it what stays the same."""

    def __init__(self, mesh: Mesh, choices: Choices) -> None:
        self.mesh, self._choices = mesh, choices
        self.views = Views(mesh, choices)
        self.rejected: dict[Name, str] = {}
        self._made: dict[Name, tuple[tuple[object, ...], Resource]] = {}
        self._prepared: set[View] = set()  # whose resources were all made once
        self._compared: tuple[Translated, dict[Name, bool]] | None = None  # with that former one
        self._gone: frozenset[Key] = frozenset()  # Services that the last snapshot with other Services still had
        # Shared by all that follow: the names that were ever asked for, by Service and by the view's token.
        self._asked: defaultdict[Key | str, set[Name]] = defaultdict(set)
        self._remains: defaultdict[str, dict[int, dict[Name, Resource | None]]] = defaultdict(dict)  # by view and port
        self._idle: set[str] = set()  # places where nobody connected was when `retain` was last called

    def next(self, mesh: Mesh) -> "Translated":
        """The snapshot of another moment."""
        following = Translated(mesh, self._choices)
        following.views = self.views.next(mesh)
        following._made, following._prepared = dict(self._made), set(self._prepared)
        following._asked, following._remains, following._idle = self._asked, self._remains, self._idle
        following.rejected, following._gone = dict(self.rejected), self._gone
        if mesh.services is not self.mesh.services:
            following._drop_those_gone_since(self)
        return following

    def names(self, kind: Kind, caller: Caller) -> Sequence[str]:
        """What a wildcard subscription of this caller holds; the same object as long as it is the same."""
        return self.views.names(self.views.of(caller)).get(kind, ())

    def prepare(self, caller: Caller) -> Iterator[None]:
        """Makes all that this caller's proxy will ask for, a little at each step."""
        for name in self.names(Kind.CLUSTER, caller):
            if near := self.views.near(name, caller):
                yield from self._making(Kind.ENDPOINTS, name + near)
        view = self.views.of(caller)
        if view in self._prepared:
            return
        yield
        for name in self.names(Kind.CLUSTER, caller):
            yield from self._making(Kind.CLUSTER, name)
            yield from self._making(Kind.ENDPOINTS, name)
        behind = scope.in_view(view)
        for name in self.names(Kind.LISTENER, caller):
            yield from self._making(Kind.LISTENER, name + behind)
            port, _ = scope.read_listener_name(name) or (0, False)
            yield from self._making(Kind.ROUTES, scope.routes_name(port) + behind)
        self._prepared.add(view)

    def follow(self, former: Snapshot) -> Iterator[None]:
        """Makes what `changed` will look at, a little at each step."""
        assert isinstance(former, Translated)
        yield from self.views.follow(former.views)
        compared: dict[Name, bool] = {}
        for name in self._concerned(former):
            if name in former._made:
                yield from self._making(*name)
                compared[name] = self._differs(former, *name)  # of others, somebody may ask the former one meanwhile
                yield
        self._compared = (former, compared)

    def group(self, caller: Caller) -> str:
        """WILDCARD, and who has the same names as this caller."""
        return views.group(self.views.of(caller))

    def variant(self, kind: Kind, caller: Caller) -> str:
        """What stands behind the names of which `changed` tells this caller."""
        return scope.in_view(self.views.of(caller)) if kind in OF_VIEW else ""

    def meant(self, kind: Kind, name: str, caller: Caller) -> str:
        """What this caller's proxy means by a name, for `get`."""
        if kind is not Kind.ENDPOINTS:
            return name + self.variant(kind, caller)
        return name + (self.views.near(name, caller) if "@" not in name else "@")  # nobody makes up a place

    def get(self, kind: Kind, name: str) -> Resource | None:
        """The resource, for any name that `names` gave or that a resource refers to; None: there is none."""
        return finished(self._making(kind, name))

    def instead(self, kind: Kind, name: str) -> Resource | None:
        """What is told to a proxy that does not take the resource, and has no other of that name."""
        source = translate.instead(kind, name)
        return at_once(kind, name, source) if source else None

    def remains(self, kind: Kind, name: str) -> Resource | None:
        """What a proxy is told of what is gone, if it has it; None: it is taken away."""
        shown, token = scope.read_view(name)
        view = self.views.known(token)
        if view is None or kind not in OF_VIEW:
            return None
        port, _ = translate.read_name(kind, shown)
        ports = self._remains[token]
        if port not in ports and len(ports) == MOST_REMAINS:
            there = frozenset(self.views.names(view)[Kind.LISTENER])
            for one in [one for one in ports if scope.listener_name(one) in there]:
                del ports[one]  # has a Service again
        if port not in ports and (not 0 < port < 1 << 16 or len(ports) == MOST_REMAINS):
            return None
        made = ports.setdefault(port, {})
        if (kind, name) not in made:
            made[kind, name] = at_once(kind, shown, translate.remains(kind, shown, view, self._choices))
        return made[kind, name]

    def _making(self, kind: Kind, name: str) -> Making:
        """What `get` does, a little at each step."""
        recipe, owner = self._recipe(kind, name)
        if recipe is None or owner is None:
            self._drop((kind, name))
            return None
        self._asked[owner].add((kind, name))
        made = self._made.get((kind, name))
        if made is not None and made[0] == recipe.of:
            return made[1]
        resource = yield from self._make(kind, name, recipe, made[1] if made else None)
        if resource is not None:
            self._made[kind, name] = (recipe.of, resource)
        return resource

    def source(self, kind: Kind, name: str) -> Json | None:
        """The resource as JSON, unchecked."""
        recipe, _ = self._recipe(kind, name)
        return recipe.make() if recipe else None

    def retain(self, callers: Iterable[Caller]) -> None:
        """Drops what was made for views and places that are idle twice; whoever comes to one has it made again."""
        connected = list(callers)
        self._retain_places({place for one in connected for place in scope.nearby(one.zone, one.node)})
        for view in self.views.retain(connected):
            for name in self._asked.pop(view.token, set()):
                self._drop(name)
            self._remains.pop(view.token, None)
            self._prepared.discard(view)

    def changed(self, former: Snapshot) -> Iterator[tuple[Kind, str]]:
        """What differs, among all that was ever asked of either; and the groups whose `names` do."""
        assert isinstance(former, Translated)
        compared = self._compared[1] if self._compared and self._compared[0] is former else {}
        for name in self._concerned(former):
            if compared[name] if name in compared else self._differs(former, *name):
                yield name[0], _noticed(*name)
            elif not self._is_there(*name):
                self._forget(name)
        self._compared = None  # or one snapshot would keep another, and so on
        yield from self.views.groups_that_differ(former.views)

    def _concerned(self, former: "Translated") -> Iterator[Name]:
        """What may differ."""
        for key in self._touched(former):
            yield from self._asked.get(key, set()).union(former._asked.get(key, set()), self._possible(former, key))
        for token in self.views.tokens_that_differ(former.views):
            new = self._possible_in_view(former, token)
            yield from self._asked.get(token, set()).union(former._asked.get(token, set()), new)

    def _recipe(self, kind: Kind, name: str) -> tuple[Recipe | None, Key | str | None]:
        """How it is made, and whose it is: a Service's, or a view's."""
        if kind in _OF_SERVICE:
            recipe = translate.of_service(kind, name, self.mesh, self._choices)
            return recipe, _key(name) if recipe else None
        shown, token = scope.read_view(name)
        view = self.views.known(token)
        if view is None:
            return None, None
        return translate.of_view(kind, shown, view, self.views.services(view), self._choices), token

    def _make(self, kind: Kind, name: str, recipe: Recipe, last: Resource | None) -> Making:
        try:
            made = yield from encoding(kind, _shown(kind, name), recipe.make(), last)
        except InvalidResource as problem:
            self.rejected[kind, name] = str(problem)
        except Exception as bug:  # a bug of ours in one resource must not end streams that have thousands
            self.rejected[kind, name] = repr(bug)
        else:
            self.rejected.pop((kind, name), None)
            return made
        return last or self.instead(kind, name)

    def _drop(self, name: Name) -> None:
        self._made.pop(name, None)
        self.rejected.pop(name, None)

    def _forget(self, name: Name) -> None:
        """It was not there in the former snapshot either; when it comes, it is among those that are possible."""
        owner: Key | str = _key(name[1]) if name[0] in _OF_SERVICE else scope.read_view(name[1])[1]
        if owner in self._asked:
            self._asked[owner].discard(name)

    def _drop_those_gone_since(self, former: "Translated") -> None:
        """Drops what is gone; and that it was asked for, if it was gone before: nobody has to be told any more."""
        for key in former._gone:
            if self.mesh.service(key) is None:
                self._asked.pop(key, None)
        differing = services_that_differ(former.mesh, self.mesh)
        self._gone = frozenset(key for key in differing if self.mesh.service(key) is None)
        for key in self._gone:
            for name in self._asked.get(key, ()):
                self._drop(name)

    def _retain_places(self, live: Set[str]) -> None:
        """Services stay, and nodes come and go all the time."""
        idle = set()
        for owner, asked in self._asked.items():
            for name in [one for one in asked if one[0] is Kind.ENDPOINTS] if isinstance(owner, Key) else []:
                place = scope.read_place(name[1])
                if not place or place in live:
                    continue
                idle.add(place)
                if place in self._idle:
                    self._drop(name)
                    asked.discard(name)
        self._idle.clear()
        self._idle.update(idle)

    def _touched(self, former: "Translated") -> Iterator[Key]:
        """The Services that differ, or whose endpoints do."""
        yield from services_whose_endpoints_differ(former.mesh, self.mesh)
        yield from services_that_differ(former.mesh, self.mesh)

    def _possible(self, former: "Translated", key: Key) -> Iterator[Name]:
        """Names that somebody may have asked for in vain; of endpoints at some place, which none is told by."""
        found = (one.mesh.service(key) for one in (self, former))
        for service in filter(None, found):
            for port in service.ports:
                name = scope.cluster_name(service, port)
                yield Kind.CLUSTER, name
                yield Kind.ENDPOINTS, name + scope.near(service.locality, "-")

    def _possible_in_view(self, former: "Translated", token: str) -> Iterator[Name]:
        """The same of listeners and their routes: those that came."""
        view = self.views.known(token)
        if view is not None:
            here, there = (one.views.names(view)[Kind.LISTENER] for one in (self, former))
            for name in {*here}.difference(there):
                port, _ = translate.read_name(Kind.LISTENER, name)
                yield Kind.LISTENER, name + scope.in_view(view)
                yield Kind.ROUTES, scope.routes_name(port) + scope.in_view(view)

    def _differs(self, former: "Translated", kind: Kind, name: str) -> bool:
        if (kind, name) in self._made or (kind, name) in former._made:
            was, now = former.get(kind, name), self.get(kind, name)
            return (was and was.version) != (now and now.version)
        return former._is_there(kind, name) is not self._is_there(kind, name)

    def _is_there(self, kind: Kind, name: str) -> bool:
        return (kind, name) in self._made or self._recipe(kind, name)[0] is not None


def _noticed(kind: Kind, name: str) -> str:
    """By which streams are told of it."""
    return name.partition("@")[0] if kind is Kind.ENDPOINTS else name


def _shown(kind: Kind, name: str) -> str:
    """As proxies call it."""
    return scope.read_view(name)[0] if kind in OF_VIEW else _noticed(kind, name)


def _key(name: str) -> Key:
    return Key(*name.partition(":")[0].split("/", 1))
