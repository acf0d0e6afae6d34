"""Snapshots built by hand, and a proxy that speaks the delta protocol to a conversation, for tests of the latter."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any

from controlplane.xds.cache import Cache
from controlplane.xds.received import Received, Unanswered
from controlplane.xds.snapshot import WILDCARD, Caller, Kind, Resource, Snapshot
from controlplane.xds.stream import Conversation
from controlplane.xds.wire import Request, Response

CALLER = Caller("shop", "web-0")
WILD = (Kind.CLUSTER, Kind.LISTENER)
Contents = Mapping[Kind, Mapping[str, str]]  # kind -> name -> version
LEFT = (Kind.LISTENER, Kind.ROUTES)  # of which something may remain
_NOBODY: Mapping[str, Iterable[str]] = {}
_NOTHING: Mapping[str, str] = {}


class World:
    """A Snapshot of these names and versions. A caller's wildcard holds all clusters and listeners but those that are
    `hidden` from everyone, or from its own namespace.
    """

    def __init__(
        self,
        contents: Contents,
        hidden: Iterable[str] = (),
        hidden_from: Mapping[str, Iterable[str]] = _NOBODY,
        remnants: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.contents = {kind: dict(contents.get(kind, {})) for kind in Kind}
        self.substitutes: dict[str, str] = {}  # by name: the version of what is told instead of what is refused
        self.remnants = dict(remnants)  # of listeners and routes, by name: the version of what stays when it is gone
        unseen = {namespace: {*hidden, *more} for namespace, more in {"": (), **hidden_from}.items()}
        self._names = {
            namespace: {kind: tuple(name for name in self.contents[kind] if name not in here) for kind in WILD}
            for namespace, here in unseen.items()
        }

    def names(self, kind: Kind, caller: Caller) -> Sequence[str]:
        return self._names.get(caller.namespace, self._names[""])[kind]

    def variant(self, kind: Kind, caller: Caller) -> str:
        return ""

    def meant(self, kind: Kind, name: str, caller: Caller) -> str:
        return name

    def group(self, caller: Caller) -> str:
        return WILDCARD

    def get(self, kind: Kind, name: str) -> Resource | None:
        version = self.contents[kind].get(name)
        return None if version is None else Resource(name, version, _body(kind, version))

    def remains(self, kind: Kind, name: str) -> Resource | None:
        version = self.remnants.get(name) if kind in LEFT else None
        return None if version is None else Resource(name, version, _body(kind, version))

    def instead(self, kind: Kind, name: str) -> Resource | None:
        version = self.substitutes.get(name)
        return None if version is None else Resource(name, version, _body(kind, version))

    def prepare(self, caller: Caller) -> Iterator[None]:
        yield from ()

    def retain(self, callers: Iterable[Caller]) -> None:
        pass

    def follow(self, former: Snapshot) -> Iterator[None]:
        yield from ()

    def changed(self, former: Snapshot) -> Iterator[tuple[Kind, str]]:
        assert isinstance(former, World)
        for kind in Kind:
            old, new = former.contents[kind], self.contents[kind]
            yield from ((kind, name) for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        views = {(kind, namespace) for namespace in self._names.keys() | former._names.keys() for kind in WILD}
        differ = {
            kind for kind, one in views if self.names(kind, Caller(one, "")) != former.names(kind, Caller(one, ""))
        }
        yield from ((kind, WILDCARD) for kind in WILD if kind in differ)


def _body(kind: Kind, version: str) -> bytes:
    """Of the right form, and no more than that."""
    return bytes(Any(type_url=kind, value=version.encode()).SerializeToString())


def world(
    clusters: str = "", endpoints: str = "", listeners: str = "", routes: str = "", hidden: Iterable[str] = ()
) -> World:
    """Each text holds names with versions: `a=1 b=2`."""
    texts = zip(Kind, (clusters, endpoints, listeners, routes), strict=True)
    return World({kind: dict(word.split("=") for word in text.split()) for kind, text in texts}, hidden)


@dataclass
class Proxy:
    """A conversation, and the other end of it: what it has been sent, and what it holds of that."""

    cache: Cache
    now: float = 0.0
    caller: Caller = CALLER
    woken: int = 0
    missed: list[Unanswered] = field(default_factory=list)
    holds: dict[Kind, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    conversation: Conversation = field(init=False)

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.cache, lambda: self.caller, self._wake, self.missed.append)

    def _wake(self) -> None:
        self.woken += 1

    def ask(
        self,
        kind: Kind,
        *names: str,
        without: Sequence[str] = (),
        has: Mapping[str, str] | None = None,
        nonce: str = "",
    ) -> Received:
        return self._say(Request(kind, names, without, has or {}, nonce))

    def accept(self, response: Response) -> Received:
        """Does what it says, and says so."""
        self.holds[response.kind].update({one.name: one.version for one in response.resources})
        for name in response.removed:
            self.holds[response.kind].pop(name, None)
        return self._say(Request(response.kind, nonce=response.nonce))

    def reject(self, response: Response, message: str = "no such filter") -> Received:
        return self._say(Request(response.kind, nonce=response.nonce, error=message))

    def become(self, caller: Caller) -> None:
        """Whose proxy it is, is known otherwise from now on."""
        self.caller = caller
        self.conversation.look_again()

    def told(self) -> list[Response]:
        """All that is said now, unanswered."""
        return list(iter(lambda: self.conversation.respond(self.now), None))

    def settle(self) -> list[Response]:
        """Accepts whatever comes, until nothing comes; all of it."""
        said: list[Response] = []
        while responses := self.told():
            said += responses
            for response in responses:
                self.accept(response)
        return said

    def _say(self, request: Request) -> Received:
        return self.conversation.receive(request, self.now)


def proxy(snapshot: Snapshot) -> Proxy:
    """One that is connected to a control plane that knows this world."""
    cache = Cache()
    cache.store(snapshot)
    return Proxy(cache)


def short(response: Response) -> str:
    """`CLUSTER a=1 b=2 -c`."""
    told = sorted(f"{one.name}={one.version}" for one in response.resources)
    return " ".join([response.kind.name, *told, *(f"-{name}" for name in sorted(response.removed))])
