"""The delta conversation with one proxy, without I/O: requests in, responses out, in the order that breaks nothing.

Make before break: what is new goes out as clusters, endpoints, listeners, routes; the latter two wait until the proxy
has accepted the clusters, which Envoy does when they are warm. What is gone goes out in reverse: endpoints and clusters
stay until nothing unanswered could still name them, and REMOVAL_SECONDS more for requests that are under way.
"""

import math
from collections.abc import Callable

from controlplane.xds.cache import Cache
from controlplane.xds.interest import Interest
from controlplane.xds.received import Asked, Received, Rejected, Unanswered
from controlplane.xds.snapshot import WILDCARD, Caller, Kind
from controlplane.xds.topic import Topic
from controlplane.xds.wire import Request, Response

PATIENCE_SECONDS = 30.0  # for an answer; Envoy gives up on a cold cluster after 15 s at most
REMOVAL_SECONDS = 2.0

_ORDER = (Kind.CLUSTER, Kind.ENDPOINTS, Kind.LISTENER, Kind.ROUTES)
_NAMING = (Kind.LISTENER, Kind.ROUTES)  # these name clusters
_NAMED = (Kind.ENDPOINTS, Kind.CLUSTER)  # in the order of their removal
_WILD = (Kind.CLUSTER, Kind.LISTENER)  # the types of which Envoy asks for all that concerns it


class Conversation:
    """One stream. `caller` says whose proxy it is, and may say it differently once the wildcard has changed; `wake` is
    called when `respond` may have something to say, and `miss` for a response that counts as accepted: what comes after
    it must not wait for ever. Times are in seconds, of any monotonic clock.
    """

    def __init__(
        self,
        cache: Cache,
        caller: Callable[[], Caller],
        wake: Callable[[], None],
        miss: Callable[[Unanswered], None],
    ) -> None:
        self._cache, self._caller, self._wake, self._miss = cache, caller, wake, miss
        self.topics: dict[Kind, Topic] = {}
        self._warming: set[str] = set()  # clusters that were sent before endpoints were first asked for
        self._patient_until = math.inf  # before that, no answer has been waited for too long
        self._open: dict[Kind, Topic] = {}  # where something may be to say: of thousands, a push looks at no others
        self.rejects = False  # whether there may be something in a topic's `rejected`
        self.alarm: float | None = None  # when `respond` is to be asked even if nothing happens

    @property
    def waits(self) -> bool:
        """Whether there is something that the proxy is to be told as soon as it may be."""
        return any(topic.waits for topic in self._open.values())

    def receive(self, request: Request, now: float) -> Received:
        """Takes a request in. Raises ConversationError."""
        kind = request.kind
        if kind is None:
            return Asked(None)
        topic = self.topics.get(kind)
        if topic is None:
            interest = Interest(kind, self._cache, self, self._caller())
            topic = self.topics[kind] = Topic(kind, interest, self._caller, kind in _WILD)
            topic.open(request, self._warming if kind is Kind.ENDPOINTS else frozenset())
            if kind is Kind.ENDPOINTS:
                self._warming = set()
            self._open[kind] = topic
            return Asked(kind)
        received = topic.answer(request, now) if request.nonce else Asked(kind)
        if request.subscribe or request.unsubscribe or isinstance(received, Rejected):
            topic.change(request)
            self._open[kind] = topic
            self.rejects = self.rejects or isinstance(received, Rejected)
        return received

    def notice(self, kind: Kind, name: str) -> None:
        """The cache has something new of that name."""
        topic = self._open[kind] = self.topics[kind]
        topic.notice(name)

    def look_again(self) -> bool:
        """Whether the caller is another to any type; some may have found that out by themselves, and others not."""
        caller = self._caller()
        behind = [kind for kind, topic in self.topics.items() if topic.interest.caller != caller]
        for kind in behind:
            self.notice(kind, WILDCARD)
        return bool(behind)

    def wake(self) -> None:
        """There may be something to say."""
        self._wake()

    def end(self) -> None:
        """The stream is over: nothing is noticed any more."""
        for topic in self.topics.values():
            topic.close()
        self.topics, self._open = {}, {}
        # Whom these belong to has this conversation, and would stay with it until Python looks for cycles: for hours.
        self._wake, self._miss, self._caller = _nothing, _nothing, _nobody

    def respond(self, now: float) -> Response | None:
        """What the proxy is to be told next, if anything. To be asked again until it is None."""
        for topic in [*self._open.values()]:
            if not (topic.waits or topic.leaving):
                del self._open[topic.kind]
        if not self._open:
            self.alarm = None
            return None
        if now >= self._patient_until:
            self._lose_patience(now)
        response = self._tell(now) or self._take_away(now)
        self.alarm = None if response else self._next_alarm()
        return response

    def _lose_patience(self, now: float) -> None:
        waiting = []
        for topic in self.topics.values():
            if topic.flight and now < topic.flight.since + PATIENCE_SECONDS:
                waiting.append(topic.flight.since + PATIENCE_SECONDS)
            elif topic.flight:
                topic.land()
                self._miss(Unanswered(topic.kind))
        self._patient_until = min(waiting, default=math.inf)

    def _tell(self, now: float) -> Response | None:
        for kind in _ORDER:
            topic = self._open.get(kind)
            if topic is None or topic.flight or (kind in _NAMING and self._is_warming()):
                continue
            if (response := topic.tell(now)) is not None:
                self._patient_until = min(self._patient_until, now + PATIENCE_SECONDS)
                if kind is Kind.CLUSTER:
                    self._warm({resource.name for resource in response.resources})
                return response
        return None

    def _is_warming(self) -> bool:
        clusters = self.topics.get(Kind.CLUSTER)
        return clusters is not None and clusters.flight is not None

    def _warm(self, clusters: set[str]) -> None:
        """A changed cluster of Envoy's waits for its endpoints, of the same name, although the old one had them."""
        if (endpoints := self.topics.get(Kind.ENDPOINTS)) is not None:
            endpoints.repeat(clusters)
            self._open[Kind.ENDPOINTS] = endpoints
        else:
            self._warming |= clusters

    def _take_away(self, now: float) -> Response | None:
        naming = [topic for kind in _NAMING if (topic := self.topics.get(kind))]
        if not any(topic.flight or topic.waits for topic in naming):  # what comes later names nothing that is gone now
            for topic in self._leaving():
                topic.settle(now + REMOVAL_SECONDS)
        for topic in self._leaving():
            if topic.flight is None and (response := topic.take_away(now)) is not None:
                self._patient_until = min(self._patient_until, now + PATIENCE_SECONDS)
                return response
        return None

    def _leaving(self) -> list[Topic]:
        return [topic for kind in _NAMED if (topic := self._open.get(kind)) and topic.leaving]

    def _next_alarm(self) -> float | None:
        times = [topic.flight.since + PATIENCE_SECONDS for topic in self.topics.values() if topic.flight]
        times += [min(topic.leaving.values()) for topic in self._leaving() if not topic.flight]
        return next(filter(math.isfinite, sorted(times)), None)


def _nothing(*_: object) -> None:
    pass


def _nobody() -> Caller:
    raise AssertionError("the conversation is over")
