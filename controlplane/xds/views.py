"""What each caller sees of a Mesh: its view, the Services in that, the names that a wildcard of it holds, and which
endpoints a name means to it.

Found out when somebody asks, and kept while what it is made of is. Not for several threads.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from controlplane.xds import scope, translate
from controlplane.xds.mesh import Locality, Mesh, Service, services_that_differ
from controlplane.xds.scope import View
from controlplane.xds.snapshot import WILDCARD, Caller, Kind
from controlplane.xds.translate import Choices

OF_VIEW = (Kind.LISTENER, Kind.ROUTES)  # what their names mean depends on the view


class Views:
    """`next` gives those of the next Mesh, and shares with them what stays the same."""

    def __init__(self, mesh: Mesh, choices: Choices) -> None:
        self._mesh, self._choices = mesh, choices
        self._near: Mapping[str, Locality] | None = None  # of endpoints that are not the same to all
        self._members: dict[View, tuple[Service, ...]] = {}
        self._names: dict[View, dict[Kind, tuple[str, ...]]] = {}
        self._surveyed: set[View] = set()  # whose names are those of this Mesh
        # Shared by all that follow.
        self._known: dict[str, View] = {}  # that were ever asked for, by token
        self._idle: set[str] = set()  # tokens of those that nobody connected had when `retain` was last called

    def next(self, mesh: Mesh) -> "Views":
        """Those of another moment."""
        following = Views(mesh, self._choices)
        following._known, following._idle = self._known, self._idle
        if mesh.services is self._mesh.services:
            following._names, following._members, following._surveyed = self._names, self._members, self._surveyed
            following._near = self._near
        else:
            following._look_again(self)
        return following

    def of(self, caller: Caller) -> View:
        """What this caller sees."""
        found = _view(caller)
        return self._known.setdefault(found.token, found)

    def near(self, name: str, caller: Caller) -> str:
        """What stands behind a name of endpoints that this caller's proxy says."""
        if self._near is None:
            self._near = dict(_near(self._mesh))
        locality = self._near.get(name)
        return "" if locality is None else scope.near(locality, scope.place(locality, caller.zone, caller.node))

    def known(self, token: str) -> View | None:
        """The view of that token; None if nobody has asked for it, or it was forgotten."""
        return self._known.get(token)

    def services(self, view: View) -> tuple[Service, ...]:
        """What is in that view."""
        if view not in self._members:
            self._members[view] = scope.services(self._mesh, self._choices.scope, view)
        return self._members[view]

    def names(self, view: View) -> Mapping[Kind, tuple[str, ...]]:
        """The names of clusters and listeners; each tuple is the same object as long as it is the same."""
        if view not in self._surveyed:
            self._survey(view)
        return self._names[view]

    def retain(self, callers: Iterable[Caller]) -> list[View]:
        """Forgets the views that none of these callers has, and none had the last time: those that it forgot."""
        live = {self.of(caller) for caller in callers}
        idle = {token for token, view in self._known.items() if view not in live}
        forgotten = [self._forget(token) for token in idle & self._idle]
        self._idle.clear()
        self._idle.update(idle & self._known.keys())
        return forgotten

    def follow(self, former: "Views") -> Iterator[None]:
        """Finds out what `groups_that_differ` compares, a little at each step."""
        for view in list(former._names):
            if view not in self._surveyed:
                self.names(view)
                yield

    def groups_that_differ(self, former: "Views") -> Iterator[tuple[Kind, str]]:
        """The groups that have other names of that kind."""
        if self._mesh.services is former._mesh.services:
            return
        for view in list(former._names):
            names, before = self.names(view), former.names(view)
            yield from ((kind, group(view)) for kind in before if names[kind] is not before[kind])

    def tokens_that_differ(self, former: "Views") -> Iterator[str]:
        """Of the views with other Services in them."""
        if self._mesh.services is not former._mesh.services:
            for token, view in list((self._known | former._known).items()):
                if self.services(view) != former.services(view):
                    yield token

    def _survey(self, view: View) -> None:
        self._surveyed.add(view)
        members = self.services(view)
        known = self._names.setdefault(view, {})
        for kind, names in (
            (Kind.CLUSTER, translate.cluster_names(view, members, self._choices)),
            (Kind.LISTENER, translate.listener_names(members)),
        ):
            if known.get(kind) != names:
                known[kind] = names

    def _forget(self, token: str) -> View:
        view = self._known.pop(token)
        self._names.pop(view, None)
        self._members.pop(view, None)
        self._surveyed.discard(view)
        return view

    def _look_again(self, former: "Views") -> None:
        """What sees no Service that differs stays as it is; and a set that comes out the same is the same object."""
        differing = frozenset(services_that_differ(former._mesh, self._mesh))
        sees = partial(scope.sees, self._choices.scope, keys=differing)
        self._names = {view: dict(sets) if sees(view) else sets for view, sets in former._names.items()}
        self._members = {view: members for view, members in former._members.items() if not sees(view)}
        self._surveyed = {view for view in former._surveyed if not sees(view)}


def group(view: View) -> str:
    """WILDCARD, and whose: all that have the same names."""
    return WILDCARD + scope.in_view(view)


def _view(caller: Caller) -> View:
    return View(caller.namespace, caller.upstreams or None, bool(caller.node))


def _near(mesh: Mesh) -> Iterator[tuple[str, Locality]]:
    for own in mesh.services.values():
        for service in own.values():
            if service.locality != "any":
                yield from ((scope.cluster_name(service, port), service.locality) for port in service.ports)
