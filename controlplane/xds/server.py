"""gRPC's side of discovery: who may connect, how many, and what becomes of them. Raw bytes in and out.

Nobody is served before there is a world to tell of, in the clear beyond loopback, or as somebody else than the token
says. Each replica serves any proxy; connections end after a while, so that replicas that come later get their share.
"""

import asyncio
from collections.abc import Callable, ItemsView, Iterable, Iterator, Set
from contextlib import contextmanager
from time import monotonic, time
from typing import Any

import grpc
from grpc.aio import EOF

from controlplane.xds import wire
from controlplane.xds.authenticator import Authenticator
from controlplane.xds.cache import Cache, Subscriber
from controlplane.xds.credentials import Credentials
from controlplane.xds.door import STREAMS_PER_POD, Door, Pod, pod_of
from controlplane.xds.identity import Identity, Reason, RefusedError
from controlplane.xds.metrics import Metrics
from controlplane.xds.notices import Notices
from controlplane.xds.received import Rejected, Slowed, Unanswered, Unusual
from controlplane.xds.session import Ended, Session, Stream
from controlplane.xds.snapshot import Caller, Kind, Snapshot
from controlplane.xds.topic import Topic
from controlplane.xds.transport import Limits, bind, is_loopback
from controlplane.xds.turns import Turns, turn_by_turn
from controlplane.xds.wire import MalformedError, Request

INTRODUCTION_SECONDS = 15.0  # for the token's review and the first request
TICK_SECONDS = 1.0  # between two looks at what is due although nothing happens
RETENTION_SECONDS = 60.0  # between two looks at what nobody is connected for any more
PREPARATIONS = 3  # at most, while the world changes during each
_REFUSALS: dict[Reason, grpc.StatusCode] = {
    "other_pod": grpc.StatusCode.PERMISSION_DENIED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "busy": grpc.StatusCode.UNAVAILABLE,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_OF_THE_REPLICA: Set[Reason] = {"unavailable", "busy", "full"}  # whoever comes: one line for all

Callers = Callable[[Identity], Caller]  # who that is, by the API server's word


class Server:
    """One replica's. Its methods are for the thread of its event loop. Without `authenticator` on loopback only: then
    callers are who they say.
    """

    def __init__(self, metrics: Metrics, authenticator: Authenticator | None, limits: Limits | None = None) -> None:
        self.cache = Cache()
        self._metrics, self._authenticator, self._limits = metrics, authenticator, limits or Limits()
        self._sessions: dict[Session, None] = {}  # the oldest first
        self._by_pod: dict[Pod, list[Session]] = {}
        self._places = self._limits.streams  # that are left, also for who has not said who he is
        self._door = Door()
        self._callers: Callers = lambda identity: Caller(identity.namespace, identity.pod)
        self._notices = Notices()
        self._turns = Turns()
        self._server: grpc.aio.Server | None = None
        self._preparing = asyncio.Lock()
        self._retained = monotonic()
        self._ticking: asyncio.Task[None] | None = None

    async def bind(self, address: str, credentials: Credentials | None) -> int:
        """Takes the port, and returns it. Raises OSError, and ValueError for what would be unsafe."""
        if (credentials is None or self._authenticator is None) and not is_loopback(address):
            raise ValueError(f"{address}: beyond loopback, proxies are served by TLS and for a token only")
        self._server, port = bind(self._serve, address, credentials, self._limits)
        return port

    async def start(self) -> None:
        """Accepts proxies from now on: there is a world to tell of."""
        assert self._server is not None
        assert self.cache.snapshot is not None
        await self._server.start()
        self._ticking = asyncio.create_task(self._tick())

    async def follow(self, snapshot: Snapshot) -> None:
        """Makes what `adopt` will tell of, while proxies are served from the former one."""
        if self.cache.snapshot is not None:
            await turn_by_turn(snapshot.follow(self.cache.snapshot))

    def adopt(self, snapshot: Snapshot, callers: Callers) -> None:
        """This is the world now; and `callers`, if it is another, says who is who in it."""
        self._metrics.changes.inc(self.cache.store(snapshot, self._wake, monotonic()))
        if monotonic() >= self._retained + RETENTION_SECONDS:
            self._retained = monotonic()
            self.cache.retain({session.caller for session in self._sessions})
        self._metrics.snapshots.inc()
        self._metrics.snapshot_time.set(time())
        if callers is not self._callers:
            self._callers = callers
            self._turns.add(session.look_again for session in self._sessions)

    async def stop(self, seconds: float) -> None:
        """Accepts nobody any more, and ends the streams bit by bit, so that they do not all come to one replica."""
        if self._server is None:
            return
        stopping = asyncio.create_task(self._server.stop(seconds + 1))
        sessions = list(self._sessions)
        for session in sessions:
            await asyncio.sleep(seconds / len(sessions))
            session.end(Ended("stopping", "this replica stops"))
        await stopping
        self._turns.stop()
        if self._ticking is not None:
            self._ticking.cancel()

    def debug(self) -> dict[str, Any]:
        """What a person may want to know, as JSON."""
        names = self.cache.subscriptions()
        return {
            "subscribed names": {kind.name.lower(): number for kind, number in names.items()},
            "proxies": [_describe(session) for session in self._sessions],
        }

    def debug_proxy(self, namespace: str, pod: str) -> list[dict[str, Any]]:
        """The same of one pod, with each name that it was told of, and its version."""
        return [
            {**_describe(session), "holds": {kind.name.lower(): dict(topic.held) for kind, topic in _topics(session)}}
            for session in self._by_pod.get((namespace, pod), ())
        ]

    # One stream

    async def _serve(self, _requests: object, stream: Stream) -> None:
        status = await self._converse(stream)
        if status is not None:  # here, for gRPC keeps what this raises, and that whatever was being handled
            await stream.abort(*status)

    async def _converse(self, stream: Stream) -> tuple[grpc.StatusCode, str] | None:
        """The status to end with, unless the proxy has ended it."""
        try:
            with self._place():
                identity, first = await self._introduce(stream)
                await self._prepare(identity)
                with self._admitted(stream, identity) as session:
                    await session.run(first)
        except RefusedError as refusal:
            self._metrics.refusals.labels(refusal.reason).inc()
            who = "" if refusal.reason in _OF_THE_REPLICA else _address(stream)
            self._notices.tell("refused", refusal.reason, who, str(refusal), monotonic())
            return _REFUSALS.get(refusal.reason, grpc.StatusCode.UNAUTHENTICATED), str(refusal)
        except Ended as end:
            self._metrics.ends.labels(end.reason).inc()
            if end.reason == "closed":
                return None
            if end.reason != "stopping":
                self._notices.tell("ended", end.reason, _address(stream), str(end), monotonic())
            return end.code, str(end)
        except asyncio.CancelledError:  # the proxy went away
            self._metrics.ends.labels("closed").inc()
            raise
        except Exception as error:  # a bug of ours ends this stream, and no other
            self._metrics.ends.labels("internal").inc()
            self._notices.tell("ended", "internal", _address(stream), repr(error), monotonic())
            return grpc.StatusCode.INTERNAL, "internal error"
        return None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Raises RefusedError if there is none."""
        if self._places <= 0:
            raise RefusedError("full", f"this replica takes {self._limits.streams} streams")
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def _introduce(self, stream: Stream) -> tuple[Identity, Request]:
        """Who calls, and the first request. Raises RefusedError and Ended."""
        try:
            async with asyncio.timeout(INTRODUCTION_SECONDS):
                identity = await self._identify(stream) if self._authenticator else None
                with self._door.waiting(identity, monotonic()):
                    data = await stream.read()
        except TimeoutError:
            raise Ended("silent", f"no request within {INTRODUCTION_SECONDS:.0f} s") from None
        if data is EOF:
            raise Ended("closed")
        try:
            first = wire.decode(data)
        except MalformedError as error:
            raise Ended("malformed", str(error)) from None
        if identity is None:
            pod, _, namespace = first.node.rpartition(".")
            identity = Identity(namespace, pod)
        identity.check(first.node)
        return identity, first

    async def _identify(self, stream: Stream) -> Identity:
        assert self._authenticator is not None
        metadata = dict(stream.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        shown = authorization if isinstance(authorization, str) else None
        return await self._authenticator.identify(shown, _address(stream))

    async def _prepare(self, identity: Identity) -> None:
        """What this proxy will be told is made while others are served; thousands of the same scope do it once."""
        for _ in range(PREPARATIONS):
            async with self._preparing:
                snapshot = self.cache.snapshot
                assert snapshot is not None
                await turn_by_turn(snapshot.prepare(self._callers(identity)))
            if snapshot is self.cache.snapshot:
                return

    @contextmanager
    def _admitted(self, stream: Stream, identity: Identity) -> Iterator[Session]:
        allowance = self._door.allowance(identity, monotonic())
        find, told = (lambda: self._callers(identity)), self._tell_unusual
        session = Session(stream, identity, self.cache, find, self._metrics, told, allowance)
        same = self._by_pod.setdefault(pod_of(identity), [])
        same.append(session)
        _end_all(same[:-STREAMS_PER_POD])  # the oldest: it may be one whose end nobody noticed
        self._sessions[session] = None
        self._metrics.streams.set(len(self._sessions))
        try:
            yield session
        except Ended:
            if session.blocked:
                self._door.block(identity, monotonic())
            raise
        finally:
            del self._sessions[session]
            same.remove(session)
            if not same:
                self._by_pod.pop(pod_of(identity), None)
            self._metrics.streams.set(len(self._sessions))

    # All of them

    def _wake(self, subscribers: Iterable[Subscriber]) -> None:
        self._turns.add(subscriber.wake for subscriber in subscribers)

    async def _tick(self) -> None:
        """Wakes who is to be asked again, and counts what is rejected."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, rejected = monotonic(), dict.fromkeys(Kind, 0)
            for session in self._sessions:
                if session.conversation.alarm is not None and session.conversation.alarm <= now:
                    session.wake()
                if session.conversation.rejects:
                    for kind, topic in _topics(session):
                        rejected[kind] += len(topic.rejected)
            for kind, number in rejected.items():
                self._metrics.rejected.labels(kind.name.lower()).set(number)

    def _tell_unusual(self, identity: Identity, unusual: Unusual) -> None:
        now, by = monotonic(), f"{identity.namespace}/{identity.pod}"
        match unusual:
            case Rejected(kind, (name,), message) if self._door.may_complain(identity, now):
                self._notices.tell("rejected", kind.name.lower(), name, message, now, by=by)
            case Unanswered(kind):
                text = "no answer to a response for long: it counts as accepted"
                self._notices.tell("unanswered", kind.name.lower(), "", text, now, by=by)
            case Slowed(seconds):
                text = f"asks for more than its allowance: it is read again in {seconds:.1f} s"
                self._notices.tell("slowed", "", "", text, now, by=by)
            case _:  # more than one name: the halves are tried
                pass


def _end_all(sessions: Iterable[Session]) -> None:
    for session in sessions:
        session.end(Ended("replaced", "too many streams of one pod"))


def _address(stream: Stream) -> str:
    address: str = stream.peer().rpartition(":")[0]
    return address


def _topics(session: Session) -> ItemsView[Kind, Topic]:
    return session.conversation.topics.items()


def _describe(session: Session) -> dict[str, Any]:
    return {
        "pod": f"{session.identity.namespace}/{session.identity.pod}",
        "node": session.caller.node,
        "zone": session.caller.zone,
        "upstreams": list(session.caller.upstreams),
        "types": {
            kind.name.lower(): {
                "names": len(topic.held),
                "unanswered": topic.flight is not None,
                "waiting": topic.waits,
                "rejected": dict(topic.rejected),
            }
            for kind, topic in _topics(session)
        },
    }
