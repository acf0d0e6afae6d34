"""gRPC's side of discovery: who may connect, how many, and what becomes of them. Raw bytes in and out.

Nobody is served before there is a world to tell of, in the clear beyond loopback, or as somebody else than the token
says. Each replica serves any proxy; connections end after a while, so that replicas that come later get their share.
"""

import asyncio
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import uniform
from time import monotonic, time
from typing import Any

import grpc
from grpc.aio import EOF

from controlplane.xds import wire
from controlplane.xds.authenticator import Authenticator
from controlplane.xds.cache import Cache
from controlplane.xds.credentials import Credentials
from controlplane.xds.door import STREAMS_PER_POD, Door, Pod, pod_of
from controlplane.xds.identity import Identity, RefusedError
from controlplane.xds.metrics import Metrics
from controlplane.xds.session import Ended, Session, Stream
from controlplane.xds.snapshot import Caller, Kind, Snapshot
from controlplane.xds.topic import Rejected
from controlplane.xds.wire import MalformedError, Request

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
INTRODUCTION_SECONDS = 15.0  # for the token's review and the first request
TICK_SECONDS = 1.0
RETENTION_SECONDS = 60.0  # between two looks at what nobody is connected for any more
PREPARATIONS = 3  # at most, while the world changes during each
TURN_SECONDS = 0.02  # in which resources are made before others have their turn
REMEMBERED = 1000  # things that were told of once

_LOG = logging.getLogger("controlplane.xds")
_REFUSALS = {"other_pod": grpc.StatusCode.PERMISSION_DENIED} | dict.fromkeys(
    ("unavailable", "busy"), grpc.StatusCode.UNAVAILABLE
)

Callers = Callable[[Identity], Caller]  # who that is, by the API server's word


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one replica takes. Times in seconds."""

    streams: int = 10_000
    request_bytes: int = 4 << 20
    connection_age: float = 1800.0
    handshake: float = 10.0  # for who connects and says nothing; gRPC's default is 2 minutes


class Server:
    """One replica's. Its methods are for the thread of its event loop. Without `authenticator` on loopback only: then
    callers are who they say.
    """

    def __init__(self, metrics: Metrics, authenticator: Authenticator | None, limits: Limits | None = None) -> None:
        self.cache = Cache()
        self._metrics, self._authenticator, self._limits = metrics, authenticator, limits or Limits()
        self._sessions: dict[Session, None] = {}  # the oldest first
        self._by_pod: dict[Pod, list[Session]] = {}
        self._door = Door()
        self._callers: Callers = lambda identity: Caller(identity.namespace, identity.pod)
        self._once: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._server: grpc.aio.Server | None = None
        self._preparing = asyncio.Lock()
        self._retained = monotonic()
        self._ticking: asyncio.Task[None] | None = None

    async def bind(self, address: str, credentials: Credentials | None) -> int:
        """Takes the port, and returns it. Raises OSError, and ValueError for what would be unsafe."""
        if (credentials is None or self._authenticator is None) and not _is_loopback(address):
            raise ValueError(f"{address}: beyond loopback, proxies are served by TLS and for a token only")
        server = grpc.aio.server(options=_options(self._limits), maximum_concurrent_rpcs=self._limits.streams)
        server.add_generic_rpc_handlers((_Handler(self._serve),))
        try:
            if credentials is None:
                port: int = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials.server())
        except RuntimeError as error:
            raise OSError(f"{address}: {error}") from None
        self._server = server
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
            await _turn_by_turn(snapshot.follow(self.cache.snapshot))

    def adopt(self, snapshot: Snapshot, callers: Callers) -> None:
        """This is the world now; and `callers`, if it is another, says who is who in it."""
        self._metrics.changes.inc(self.cache.store(snapshot))
        if monotonic() >= self._retained + RETENTION_SECONDS:
            self._retained = monotonic()
            snapshot.retain({session.caller for session in self._sessions})
        self._metrics.snapshots.inc()
        self._metrics.snapshot_time.set(time())
        if callers is not self._callers:
            self._callers = callers
            for session in self._sessions:
                session.look_again()

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
        try:
            identity, first = await self._introduce(stream)
            await self._prepare(identity)
            with self._admitted(stream, identity) as session:
                await session.run(first)
        except RefusedError as refusal:
            self._metrics.refusals.labels(refusal.reason).inc()
            self._tell_once("refused", refusal.reason, stream.peer().rpartition(":")[0], str(refusal))
            await stream.abort(_REFUSALS.get(refusal.reason, grpc.StatusCode.UNAUTHENTICATED), str(refusal))
        except Ended as end:
            self._metrics.ends.labels(end.reason).inc()
            if end.reason not in ("closed", "stopping"):
                self._tell_once("ended", end.reason, stream.peer().rpartition(":")[0], str(end))
            if end.reason != "closed":
                await stream.abort(end.code, str(end))
        except asyncio.CancelledError:  # the proxy went away
            self._metrics.ends.labels("closed").inc()
            raise
        except Exception as error:  # a bug of ours ends this stream, and no other
            self._metrics.ends.labels("internal").inc()
            self._tell_once("ended", "internal", stream.peer().rpartition(":")[0], repr(error))
            await stream.abort(grpc.StatusCode.INTERNAL, "internal error")

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
        return await self._authenticator.identify(shown, stream.peer().rpartition(":")[0])

    async def _prepare(self, identity: Identity) -> None:
        """What this proxy will be told is made while others are served; thousands of the same scope do it once."""
        for _ in range(PREPARATIONS):
            async with self._preparing:
                snapshot = self.cache.snapshot
                assert snapshot is not None
                await _turn_by_turn(snapshot.prepare(self._callers(identity)))
            if snapshot is self.cache.snapshot:
                return

    @contextmanager
    def _admitted(self, stream: Stream, identity: Identity) -> Iterator[Session]:
        allowance = self._door.allowance(identity, monotonic())
        find, told = (lambda: self._callers(identity)), self._rejected
        session = Session(stream, identity, self.cache, find, self._metrics, told, allowance)
        same = self._by_pod.setdefault(pod_of(identity), [])
        same.append(session)
        for former in same[:-STREAMS_PER_POD]:  # the oldest: it may be one whose end nobody noticed
            former.end(Ended("replaced", "too many streams of one pod"))
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

    async def _tick(self) -> None:
        """For what is due although nothing happens."""
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

    def _rejected(self, identity: Identity, rejection: Rejected) -> None:
        if len(rejection.names) == 1 and self._door.may_complain(identity, monotonic()):
            (name,) = rejection.names
            self._tell_once("rejected", rejection.kind.name.lower(), name, rejection.message, by=identity.pod)

    def _tell_once(self, event: str, what: str, who: str, message: str, **facts: str) -> None:
        """What thousands of proxies may meet in the same hour is one line."""
        key = (event, what, who)
        if key in self._once:
            return
        self._once[key] = None
        if len(self._once) > REMEMBERED:
            self._once.popitem(last=False)
        _LOG.warning(event, extra={"facts": {"what": what, "who": who, "problem": message[:300], **facts}})


async def _turn_by_turn(steps: Iterator[None]) -> None:
    """All of them, and the loop turns meanwhile."""
    until = monotonic() + TURN_SECONDS
    for _ in steps:
        if monotonic() >= until:
            await asyncio.sleep(0)
            until = monotonic() + TURN_SECONDS


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # the package says no types
    """One method, of bytes."""

    def __init__(self, serve: Callable[..., Any]) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(serve, None, None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handler if handler_call_details.method == METHOD else None


def _options(limits: Limits) -> list[tuple[str, int]]:
    """gRPC's channel arguments (grpc/impl/channel_arg_names.h). What is pending at its defaults is cut off at 2,000."""
    return [
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.tsi.max_frame_size", 4 << 10),  # a buffer of that size for each connection; the default takes 22 KB more
        ("grpc.max_concurrent_streams", 8),
        ("grpc.max_allowed_incoming_connections", limits.streams * 5 // 4 + 16),  # 45 to 70 KB each
        ("grpc.server_handshake_timeout_ms", int(limits.handshake * 1000)),
        ("grpc.server.max_pending_requests", limits.streams),
        ("grpc.server.max_pending_requests_hard_limit", 2 * limits.streams),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # Envoy pings an idle connection every 30 s
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_connection_idle_ms", 20_000),  # without a stream; Envoy asks for another within 5 s
        ("grpc.max_connection_age_ms", int(limits.connection_age * 1000 * uniform(0.9, 1))),  # noqa: S311  no secret
        ("grpc.max_connection_age_grace_ms", 1_000),
    ]


def _topics(session: Session) -> Any:
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


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or address.startswith("unix:")
