"""The Snapshot of a Mesh: each resource is translated when somebody asks for it, and kept while what it is made of is.

What a proxy does not use costs nothing. One that does not pass Envoy's own rules is never handed out: the last good one
stays, or what is told instead, and `rejected` tells. Not for several threads.
"""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from controlplane.extensions import Json
from controlplane.xds import messages, scope, translate
from controlplane.xds.mesh import Key, Locality, Mesh, Service
from controlplane.xds.messages import InvalidResource
from controlplane.xds.scope import View
from controlplane.xds.snapshot import WILDCARD, Caller, Kind, Resource, Snapshot
from controlplane.xds.translate import Choices, Recipe

Name = tuple[Kind, str]
Making = Generator[None, None, Resource | None]  # a little at each step
_K = TypeVar("_K")
_OF_SERVICE = (Kind.CLUSTER, Kind.ENDPOINTS)
_OF_VIEW = (Kind.LISTENER, Kind.ROUTES)


class Translated:
    """Implements Snapshot. `next` gives that of the next Mesh, and shares with it what stays the same."""

    def __init__(self, mesh: Mesh, choices: Choices) -> None:
        self.mesh, self._choices = mesh, choices
        self.rejected: dict[Name, str] = {}
        self._made: dict[Name, tuple[tuple[object, ...], Resource]] = {}
        self._names: dict[View, dict[Kind, tuple[str, ...]]] = {}
        self._narrow: dict[View, View] = {}  # by the view with zone and node
        self._localities: dict[View, frozenset[Locality]] = {}  # by the view without
        self._members: dict[View, tuple[Service, ...]] = {}
        self._surveyed: set[View] = set()  # whose names are those of this Mesh
        self._prepared: set[View] = set()  # whose resources were all made once
        self._compared: tuple[Translated, dict[Name, bool]] | None = None  # with that former one
        # Shared by all that follow: the views that were ever asked for, and the names, by Service and by view.
        self._views: dict[str, View] = {}
        self._idle: set[str] = set()  # views of nobody who was connected when it was asked last
        self._asked: defaultdict[Key | str, set[Name]] = defaultdict(set)

    def next(self, mesh: Mesh) -> "Translated":
        """The snapshot of another moment."""
        following = Translated(mesh, self._choices)
        following._made, following._prepared = dict(self._made), set(self._prepared)
        following._views, following._idle, following._asked = self._views, self._idle, self._asked
        following.rejected = dict(self.rejected)
        if mesh.services is self.mesh.services:
            following._names, following._members, following._surveyed = self._names, self._members, self._surveyed
            following._localities, following._narrow = self._localities, self._narrow
        else:
            following._look_again(self)
        if mesh.zones is not self.mesh.zones:
            following._forget_places_gone_since(self)
        return following

    def names(self, kind: Kind, caller: Caller) -> Sequence[str]:
        """What a wildcard subscription of this caller holds; the same object as long as it is the same."""
        return self._names_of(self.view(caller)).get(kind, ())

    def prepare(self, caller: Caller) -> Iterator[None]:
        """Makes all that this caller's proxy will ask for, a little at each step."""
        view = self.view(caller)
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
        for wide in list(former._narrow):
            if wide not in self._narrow:
                self._names_of(self._see(wide))
                yield
        compared: dict[Name, bool] = {}
        for name in self._concerned(former):
            if name in former._made:
                yield from self._making(*name)
                compared[name] = self._differs(former, *name)  # of others, somebody may ask the former one meanwhile
                yield
        self._compared = (former, compared)

    def view(self, caller: Caller) -> View:
        """What this caller sees."""
        return self._see(_wide(caller))

    def group(self, caller: Caller) -> str:
        """WILDCARD, and who has the same names and variants as this caller, whatever the world."""
        return WILDCARD + scope.in_view(_wide(caller))

    def _see(self, wide: View) -> View:
        found = self._narrow.get(wide)
        if found is None:
            found = self._narrow[wide] = scope.narrowed(wide, self._asked_for(View(wide.namespace, wide.upstreams)))
        self._views.setdefault(found.token, found)
        return found

    def _asked_for(self, view: View) -> frozenset[Locality]:
        if view not in self._localities:
            self._localities[view] = scope.localities(self.mesh, self._choices.scope, view)
        return self._localities[view]

    def variant(self, kind: Kind, caller: Caller) -> str:
        """What to put behind a name that this caller's proxy says."""
        return scope.in_view(self.view(caller)) if kind in _OF_VIEW else ""

    def services(self, view: View) -> tuple[Service, ...]:
        """What is in that view."""
        if view not in self._members:
            self._members[view] = scope.services(self.mesh, self._choices.scope, view)
        return self._members[view]

    def get(self, kind: Kind, name: str) -> Resource | None:
        """The resource, for any name that `names` gave or that a resource refers to; None: there is none."""
        return finished(self._making(kind, name))

    def instead(self, kind: Kind, name: str) -> Resource | None:
        """What is told to a proxy that does not take the resource, and has no other of that name."""
        source = translate.instead(kind, name)
        return finished(_encoding(kind, name, Recipe((), lambda: source), None)) if source is not None else None

    def _making(self, kind: Kind, name: str) -> Making:
        """What `get` does, a little at each step."""
        recipe, owner = self._recipe(kind, name)
        if recipe is None or owner is None:
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
        """Forgets the views that were idle twice; whoever comes back to one has it made again."""
        live = {self.view(caller) for caller in callers}
        idle = {token for token, view in self._views.items() if view not in live}
        for token in idle & self._idle:
            self._forget(token)
        self._idle.clear()
        self._idle.update(idle & self._views.keys())
        self._narrow = {wide: view for wide, view in self._narrow.items() if view.token in self._views}
        declared = {View(view.namespace, view.upstreams) for view in self._views.values()}
        self._localities = {view: asked for view, asked in self._localities.items() if view in declared}

    def _forget(self, token: str) -> None:
        view = self._views.pop(token)
        for name in self._asked.pop(token, set()):
            self._made.pop(name, None)
            self.rejected.pop(name, None)
        self._names.pop(view, None)
        self._members.pop(view, None)
        self._surveyed.discard(view)
        self._prepared.discard(view)

    def changed(self, former: Snapshot) -> Iterator[tuple[Kind, str]]:
        """What differs, among all that was ever asked of either; and the groups whose `names` or `variant` do."""
        assert isinstance(former, Translated)
        compared = self._compared[1] if self._compared and self._compared[0] is former else {}
        for name in self._concerned(former):
            if compared[name] if name in compared else self._differs(former, *name):
                yield name
        self._compared = None  # or one snapshot would keep another, and so on
        if self.mesh.services is not former.mesh.services:
            for wide, was in list(former._narrow.items()):
                now = self._see(wide)
                names, before = self._names_of(now), former._names_of(was)
                for kind in (Kind.CLUSTER, *_OF_VIEW):
                    if now != was or names.get(kind) is not before.get(kind):
                        yield kind, WILDCARD + scope.in_view(wide)

    def _concerned(self, former: "Translated") -> Iterator[Name]:
        """What may differ."""
        for key in self._touched(former):
            yield from self._asked.get(key, set()) | former._asked.get(key, set()) | self._possible(former, key)
        if self.mesh.services is not former.mesh.services:
            for token, view in list((self._views | former._views).items()):
                if self.services(view) != former.services(view):
                    yield from self._asked.get(token, set()) | former._asked.get(token, set())

    def _recipe(self, kind: Kind, name: str) -> tuple[Recipe | None, Key | str | None]:
        """How it is made, and whose it is: a Service's, or a view's."""
        if kind in _OF_SERVICE:
            recipe = translate.of_service(kind, name, self.mesh, self._choices)
            return recipe, _key(name) if recipe else None
        shown, token = scope.read_view(name)
        view = self._views.get(token)
        if view is None:
            return None, None
        return translate.of_view(kind, shown, view, self.services(view), self._choices), token

    def _make(self, kind: Kind, name: str, recipe: Recipe, last: Resource | None) -> Making:
        try:
            made = yield from _encoding(kind, name, recipe, last)
        except InvalidResource as problem:
            self.rejected[kind, name] = str(problem)
        except Exception as bug:  # a bug of ours in one resource must not end streams that have thousands
            self.rejected[kind, name] = repr(bug)
        else:
            self.rejected.pop((kind, name), None)
            return made
        return last or self.instead(kind, name)

    def _names_of(self, view: View) -> Mapping[Kind, tuple[str, ...]]:
        if view not in self._surveyed:
            self._survey(view)
        return self._names[view]

    def _survey(self, view: View) -> None:
        """Finds out what a view holds."""
        self._surveyed.add(view)
        members = self.services(view)
        known = self._names.setdefault(view, {})
        for kind, names in (
            (Kind.CLUSTER, translate.cluster_names(view, members, self._choices)),
            (Kind.LISTENER, translate.listener_names(members)),
        ):
            if known.get(kind) != names:
                known[kind] = names

    def _look_again(self, former: "Translated") -> None:
        """What sees no Service that differs stays as it is; and a set that comes out the same is the same object."""
        sees = partial(scope.sees, self._choices.scope, keys=frozenset(_services_that_differ(former.mesh, self.mesh)))
        self._names = {view: dict(sets) if sees(view) else sets for view, sets in former._names.items()}
        self._members = {view: members for view, members in former._members.items() if not sees(view)}
        self._localities = {view: asked for view, asked in former._localities.items() if not sees(view)}
        self._narrow = {wide: view for wide, view in former._narrow.items() if not sees(wide)}
        self._surveyed = {view for view in former._surveyed if not sees(view)}
        self._forget_those_gone_since(former)

    def _forget_those_gone_since(self, former: "Translated") -> None:
        """Drops what was not there in the former snapshot either, so that nobody has to be told any more."""
        owners = [one for one in self._asked if isinstance(one, Key) and self.mesh.service(one) is None]
        for key in owners:
            for name in self._asked[key]:
                self._made.pop(name, None)
                self.rejected.pop(name, None)
            if former.mesh.service(key) is None:
                del self._asked[key]

    def _forget_places_gone_since(self, former: "Translated") -> None:
        """The same, with the names of zones and nodes: their Services stay, and nodes come and go all the time."""
        for owner, asked in self._asked.items():
            local = [name for name in asked if "@" in name[1]] if isinstance(owner, Key) else []
            for name in local:
                if self._recipe(*name)[0] is None:
                    self._made.pop(name, None)
                    self.rejected.pop(name, None)
                    if former._recipe(*name)[0] is None:
                        asked.discard(name)

    def _touched(self, former: "Translated") -> Iterator[Key]:
        """The Services that differ, or whose endpoints do."""
        yield from _differing(former.mesh.endpoints, self.mesh.endpoints)
        yield from _services_that_differ(former.mesh, self.mesh)

    def _possible(self, former: "Translated", key: Key) -> set[Name]:
        """Names that somebody may have asked for in vain."""
        ports = {port.number for one in (self.mesh, former.mesh) if (found := one.service(key)) for port in found.ports}
        return {(kind, f"{key}:{port}") for kind in _OF_SERVICE for port in ports}

    def _differs(self, former: "Translated", kind: Kind, name: str) -> bool:
        if (kind, name) in self._made or (kind, name) in former._made:
            was, now = former.get(kind, name), self.get(kind, name)
            return (was and was.version) != (now and now.version)
        return (former._recipe(kind, name)[0] is None) is not (self._recipe(kind, name)[0] is None)


def _wide(caller: Caller) -> View:
    """All that may decide what it is told, whatever the world."""
    return View(caller.namespace, caller.upstreams or None, caller.zone, caller.node)


def _services_that_differ(was: Mesh, now: Mesh) -> Iterator[Key]:
    for namespace in _differing(was.services, now.services):
        there, here = was.services.get(namespace, {}), now.services.get(namespace, {})
        yield from (Key(namespace, name) for name in _differing(there, here))


def _differing(was: Mapping[_K, object], now: Mapping[_K, object]) -> Iterator[_K]:
    if was is not now:
        yield from (key for key, value in now.items() if was.get(key) is not value)
        yield from (key for key in was if key not in now)


def _key(name: str) -> Key:
    return Key(*name.partition(":")[0].split("/", 1))


def _encoding(kind: Kind, name: str, recipe: Recipe, last: Resource | None) -> Making:
    """A resource, from its canonical source; `last` if that is the same. Raises InvalidResource."""
    texts, parts, version = [], [], hashlib.sha256()
    for text in messages.canonical(kind, recipe.make()):
        texts.append(text)
        version.update(text.encode())
        yield
    if last is not None and last.version == version.hexdigest()[:16]:
        return last
    for text in texts:
        parts.append(messages.part(kind, text))
        yield
    shown = scope.read_view(name)[0] if kind in _OF_VIEW else name
    return Resource(shown, version.hexdigest()[:16], messages.put_together(kind, parts))


def finished(making: Making) -> Resource | None:
    """All steps at once."""
    while True:
        try:
            next(making)
        except StopIteration as end:
            found: Resource | None = end.value
            return found
