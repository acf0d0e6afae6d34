"""One proxy's gRPC stream: carries the conversation, at the pace of whoever is slower, and says why it ended.

Reading is slowed down for who asks too often; writing waits until the proxy takes what it gets. A stream that is quiet
is one task and its conversation.
"""

import asyncio
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

import grpc
from grpc.aio import EOF

from controlplane.xds import wire
from controlplane.xds.allowance import Allowance, Allowances
from controlplane.xds.cache import Cache
from controlplane.xds.identity import Identity
from controlplane.xds.metrics import End, Metrics
from controlplane.xds.received import (
    Accepted,
    Asked,
    ConversationError,
    Received,
    Rejected,
    Slowed,
    Stale,
    Unanswered,
    Unusual,
)
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.stream import Conversation
from controlplane.xds.wire import MalformedError, Request, Response

# Requests a second, and of a moment, of a pod; Envoy sends one for each type and change. So many names, asked for or
# told, or so many bytes, are as good as one more: each name is 6 microseconds of the loop that all proxies share.
RATE, BURST = 50.0, 1000.0
NAMES, BYTES = 50, 16 << 10
LAST_SECONDS = 0.1  # for the message that is on its way when a stream ends
PODS = 20_000  # whose allowance is remembered
# Of the names that a stream asks for: characters, and what a name takes here however short it is. 20,000 of 100.
NAME, MAX_TEXT = 200, 6_000_000

Stream = Any  # grpc.aio.ServicerContext[bytes, bytes]; the package says no types
_CODES: dict[End, grpc.StatusCode] = {
    "too_many_names": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "name_too_long": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "silent": grpc.StatusCode.DEADLINE_EXCEEDED,
    "replaced": grpc.StatusCode.CANCELLED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "internal": grpc.StatusCode.INTERNAL,
}


class Ended(Exception):
    """The stream is over, for a reason of ours, or the proxy's own: `closed`."""

    def __init__(self, reason: End, message: str = "") -> None:
        super().__init__(message)
        self.reason: End = reason

    @property
    def code(self) -> grpc.StatusCode:
        """gRPC's word for it."""
        return _CODES.get(self.reason, grpc.StatusCode.OK)


def allowances() -> Allowances:
    """For all pods: that of a pod outlives its streams, or a new one would be a new allowance."""
    return Allowances(RATE, BURST, PODS)


class Session:
    """One stream. `caller` says whose it is now; `told` hears of what is unusual; `allowance` is the pod's."""

    def __init__(
        self,
        stream: Stream,
        identity: Identity,
        cache: Cache,
        caller: Callable[[], Caller],
        metrics: Metrics,
        told: Callable[[Identity, Unusual], None],
        allowance: Allowance,
    ) -> None:
        self.identity, self.since = identity, monotonic()
        self.caller = caller()
        self.conversation = Conversation(cache, self._look, self._notice, self._missed)
        self._stream, self._find, self._metrics, self._told = stream, caller, metrics, told
        self._cache = cache
        self._writing: asyncio.Task[None] | None = None
        self._noticed: float | None = None  # when something changed that no response tells of yet
        self._telling: float | None = None  # the same, of the response that is being written
        self._allowance = allowance
        self._text = 0  # of the names that were asked for; at least
        self._task: asyncio.Task[Any] | None = None
        self._end: Ended | None = None
        self._is_over = False  # nothing more is said
        self.blocked = False  # at its end: the proxy does not take what it is told

    async def run(self, first: Request) -> None:
        """Talks until the stream is over. Raises Ended."""
        self._task = asyncio.current_task()
        try:
            await self._wait()
            self._receive(first)
            await self._wait()
            while (data := await self._stream.read()) is not EOF:
                self._receive(wire.decode(data), len(data))
                if self._allowance.left < 0:
                    await self._wait()
        except ConversationError as error:
            raise Ended(error.reason, str(error)) from None
        except MalformedError as error:
            raise Ended("malformed", str(error)) from None
        except asyncio.CancelledError:
            if self._end is None:  # the proxy went away
                raise
            raise Ended(self._end.reason, str(self._end)) from None  # another one: its traceback has this session
        finally:
            self._is_over = True
            self.conversation.end()
            if self._writing is not None:
                await self._stop_writing(self._writing)
        raise Ended("closed")

    async def _stop_writing(self, writing: asyncio.Task[None]) -> None:
        """gRPC takes no status while a message is on its way, which for most is a moment."""
        _, waiting = await asyncio.wait({writing}, timeout=LAST_SECONDS)
        if waiting:
            self.blocked = True
            writing.cancel()

    def end(self, end: Ended) -> None:
        """Lets `run` raise this, unless it ends already."""
        if self._end is None and self._task is not None and not self._is_over:
            self._end = end
            self._task.cancel()

    def wake(self) -> None:
        """There may be something to say."""
        if self._writing is None and (response := self._next()) is not None:  # a task only for what is to be said
            self._writing = asyncio.create_task(self._write(response))

    def look_again(self) -> None:
        """The caller may be another: what it is told of follows."""
        try:
            is_another = self.conversation.look_again()
        except Exception as error:  # a bug of ours ends this stream, and no other
            self.end(Ended("internal", repr(error)))
            return
        if is_another:
            self.wake()

    def _look(self) -> Caller:
        if (found := self._find()) != self.caller:  # one object for all types
            self.caller = found
        return self.caller

    def _notice(self) -> None:
        if self._noticed is None:
            self._noticed = self._cache.stored_at
        self.wake()

    async def _wait(self) -> None:
        """Until the pod may ask for more."""
        if (left := self._allowance.take(0, monotonic())) < 0:
            self._metrics.slowed.inc()
            self._told(self.identity, Slowed(-left / RATE))
            await asyncio.sleep(-left / RATE)

    def _receive(self, request: Request, size: int = 0) -> None:
        now = monotonic()
        names = len(request.subscribe) + len(request.unsubscribe) + len(request.versions)
        self._allowance.take(1 + names / NAMES + size / BYTES, now)
        self._metrics.requests[request.kind].inc()
        self._count(self.conversation.receive(request, now))
        if request.subscribe:
            self._weigh(request)
        self.wake()

    def _weigh(self, request: Request) -> None:
        """Raises Ended for more names than any proxy needs."""
        self._text += _weight(request.subscribe)
        if self._text > MAX_TEXT:  # if none was asked for twice, or given up
            self._text = sum(_weight(topic.names) for topic in self.conversation.topics.values())
        if self._text > MAX_TEXT:
            raise Ended("too_many_names", f"names of more than {MAX_TEXT} characters, each counted as {NAME} more")

    def _count(self, received: Received) -> None:
        match received:
            case Asked():
                pass
            case Accepted(kind, seconds):
                self._metrics.accept_seconds[kind].observe(seconds)
            case Stale(kind):
                self._metrics.stale[kind].inc()
            case Rejected(kind):
                self._metrics.nacks[kind].inc()
                self._told(self.identity, received)

    def _missed(self, response: Unanswered) -> None:
        self._metrics.unanswered[response.kind].inc()
        self._told(self.identity, response)

    def _next(self) -> Response | None:
        try:
            response = self.conversation.respond(monotonic())
        except Exception as error:  # a bug of ours ends this stream, and no other
            self.end(Ended("internal", repr(error)))
            return None
        if response is not None:
            self._telling, self._noticed = self._noticed, None
        elif self._noticed is not None and not self.conversation.waits:
            self._noticed = None  # it came to nothing, as a change that was taken back does
        return response

    async def _write(self, response: Response | None) -> None:
        try:
            while response is not None:
                data = wire.encode(response)
                try:
                    await self._stream.write(data)
                except Exception:  # gRPC has many; `run` finds out as well that the stream is gone
                    return
                self._allowance.take((len(response.resources) + len(response.removed)) / NAMES, monotonic())
                self._measure(response.kind, len(data))
                response = None if self._is_over else self._next()
        finally:
            self._writing = None

    def _measure(self, kind: Kind, size: int) -> None:
        self._metrics.responses[kind].inc()
        self._metrics.sent_bytes[kind].inc(size)
        if self._telling is not None:
            self._metrics.push_seconds.observe(monotonic() - self._telling)


def _weight(names: Collection[str]) -> int:
    return sum(map(len, names)) + NAME * len(names)
