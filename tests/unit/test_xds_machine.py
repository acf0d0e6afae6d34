"""Random subscriptions, updates, rejections, slow answers, reconnects, and changes of whose proxy it is: in the end a
proxy has what the snapshot has for it.

The proxy at the other end is a model of Envoy's: it keeps what it holds over a reconnect, and takes anything but what
is spoilt, version by version.
"""

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from controlplane.xds import topic
from controlplane.xds.cache import Cache
from controlplane.xds.snapshot import WILDCARD, Caller, Kind
from controlplane.xds.stream import PATIENCE_SECONDS, REMOVAL_SECONDS
from controlplane.xds.wire import Response
from tests.worlds import CALLER, LEFT, WILD, Contents, Proxy, World

CDS, EDS, LDS, RDS = Kind
NAMES = ("a", "b", "c", "d")
BAD = "9"  # a version that the proxy does not take
REMNANTS = {"a": "0", "b": BAD}  # what remains of listeners and routes
AT_A_TIME = 2  # resources in a response: what there is may take two
ELSEWHERE = Caller("accounts", "web-0")

names = st.lists(st.sampled_from(NAMES), unique=True)
contents = st.fixed_dictionaries(
    {kind: st.dictionaries(st.sampled_from(NAMES), st.sampled_from("1239")) for kind in Kind}
)
kinds = st.sampled_from(list(Kind))


class Conversations(RuleBasedStateMachine):
    """One proxy, many worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(topic, "MAX_RESOURCES", AT_A_TIME)
        self.cache = Cache()
        self.proxy = Proxy(self.cache)
        self.wanted: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self.all: set[Kind] = set()
        self.open: set[Kind] = set()
        self.unanswered: list[Response] = []

    @initialize(contents=contents)
    def start(self, contents: Contents) -> None:
        self.world = World(contents, remnants=REMNANTS)
        self.cache.store(self.world)

    @rule(contents=contents, hidden=names, elsewhere=names)
    def change(self, contents: Contents, hidden: list[str], elsewhere: list[str]) -> None:
        hidden_from = {CALLER.namespace: hidden, ELSEWHERE.namespace: elsewhere}
        self.world = World(contents, hidden_from=hidden_from, remnants=REMNANTS)
        self.cache.store(self.world)

    @rule()
    def become_another(self) -> None:
        self.proxy.become(ELSEWHERE if self.proxy.caller == CALLER else CALLER)

    @rule(kind=kinds, names=names)
    def subscribe(self, kind: Kind, names: list[str]) -> None:
        first = kind not in self.open
        self.open.add(kind)
        self.wanted[kind] |= set(names)
        if first and kind in WILD and not names:
            self.all.add(kind)
        self.proxy.ask(kind, *names)

    @rule(kind=st.sampled_from(WILD))
    def subscribe_to_all(self, kind: Kind) -> None:
        self.open.add(kind)
        self.all.add(kind)
        self.proxy.ask(kind, WILDCARD)

    @rule(kind=kinds, names=names)
    def unsubscribe(self, kind: Kind, names: list[str]) -> None:
        if kind in self.open:
            given_up = self.wanted[kind] & set(names)
            self.wanted[kind] -= given_up
            self._drop(kind, given_up)
            self.proxy.ask(kind, without=names)

    @rule(kind=st.sampled_from(WILD))
    def unsubscribe_from_all(self, kind: Kind) -> None:
        if kind in self.open:
            self.all.discard(kind)
            self._drop(kind, self.proxy.holds[kind].keys() - self.wanted[kind])
            self.proxy.ask(kind, without=[WILDCARD])

    @rule()
    def hear(self) -> None:
        self.unanswered += self._told()
        assert len(self.unanswered) <= len({response.kind for response in self.unanswered})

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.unanswered:
            response = data.draw(st.sampled_from(self.unanswered))
            self.unanswered.remove(response)
            self._answer(response)

    @rule(kind=kinds)
    def answer_what_nobody_said(self, kind: Kind) -> None:
        if kind in self.open:
            self.proxy.ask(kind, nonce="0")

    @rule(seconds=st.sampled_from([0.1, REMOVAL_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.proxy.now += seconds

    @rule()
    def reconnect(self) -> None:
        self.proxy.conversation.end()
        assert self.cache.subscriptions() == dict.fromkeys(Kind, 0)
        former, self.proxy = self.proxy, Proxy(self.cache, self.proxy.now, self.proxy.caller)
        self.proxy.holds, self.unanswered = former.holds, []
        for kind in sorted(self.open, key=list(Kind).index):
            asked = [*self.wanted[kind], *([WILDCARD] if kind in self.all else [])]
            self.proxy.ask(kind, *asked, has=self.proxy.holds[kind])
            if kind in WILD and not asked:
                self.all.add(kind)

    def teardown(self) -> None:
        """The proxy answers everything, time passes, and nothing new happens."""
        try:
            self._end()
        finally:
            self.patch.undo()

    def _end(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(64):
            while self.unanswered:
                self._answer(self.unanswered.pop())
            self.unanswered = self._told()
            if not self.unanswered:
                self.proxy.now += PATIENCE_SECONDS
                self.unanswered = self._told()
                if not self.unanswered:
                    break
        else:
            raise AssertionError("the conversation never ends")
        for kind in self.open:
            expected = self._expected(kind)
            spoilt = self._spoilt() | {name for name, version in expected.items() if version == BAD}
            held = self.proxy.holds[kind]
            assert _without(spoilt, held) == _without(spoilt, expected), kind
        assert self.proxy.conversation.alarm is None

    def _told(self) -> list[Response]:
        """No more at a time than is allowed, and of nothing that nobody asked for."""
        told = self.proxy.told()
        for response in told:
            names = {*(resource.name for resource in response.resources), *response.removed}
            assert len(response.resources) <= AT_A_TIME
            assert response.kind in self.all or names <= self.wanted[response.kind]
        return told

    def _expected(self, kind: Kind) -> dict[str, str]:
        wild = set(self.world.names(kind, self.proxy.caller)) if kind in self.all else set()
        there = {name: v for name, v in self.world.contents[kind].items() if name in self.wanted[kind] | wild}
        return self._remaining(kind) | there

    def _remaining(self, kind: Kind) -> dict[str, str]:
        """Of listeners that the proxy has, and of all routes that it asks for."""
        had = self.wanted[kind] if kind is RDS else self.proxy.holds[kind]
        return {name: version for name, version in REMNANTS.items() if kind in LEFT and name in had}

    def _spoilt(self) -> set[str]:
        """The names whose newest version the proxy does not take: it may have an older one, or none."""
        return {name for kind in Kind for name, version in self.world.contents[kind].items() if version == BAD}

    def _answer(self, response: Response) -> None:
        """As Envoy does: what is good of a rejected response is in effect, though not what it says it has."""
        if any(resource.version == BAD for resource in response.resources):
            self.proxy.reject(response)
            return
        self.proxy.accept(response)
        unwanted = self.proxy.holds[response.kind].keys() - self.wanted[response.kind]
        if response.kind not in self.all:
            self._drop(response.kind, unwanted)

    def _drop(self, kind: Kind, names: Iterable[str]) -> None:
        for name in set(names):
            self.proxy.holds[kind].pop(name, None)


def _without(names: set[str], held: dict[str, str]) -> dict[str, str]:
    return {name: version for name, version in held.items() if name not in names}


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=100, stateful_step_count=40)
