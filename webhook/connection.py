"""One connection: uvicorn's, with an end to everything that a client may leave open.

uvicorn bounds the idle time between two requests only. Here each state has a deadline, and the head of a request a
size; `cut_off_overdue` is to be called every second. That costs one assignment per state, a timer would cost 1 µs.
What asks for another protocol gets its answer in this one (RFC 9110, 7.8).
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 64 << 10  # bytes of a request that are not its body: headers, chunk sizes, trailers; 0.5 KiB is usual
CLOSE_SECONDS = 1  # for the client to agree to the end of a TLS connection


@dataclass(frozen=True, slots=True)
class Strangers:
    """What clients get whose certificate, as `ssl` shows it, `know` says nothing about."""

    know: Callable[[Mapping[str, Any] | None], bool]
    application: Any


class Connection(HttpToolsProtocol):
    """Speaks HTTP/1.1 with one client. `on_cut` is called when a client's time or room is used up,
    `on_made` when its handshake is done.

    `strangers` is the application for those whose certificate `knows` does not; none: all get the usual one.
    """

    on_cut: Callable[[], None] = staticmethod(lambda: None)
    on_made: Callable[[], object] = staticmethod(lambda: None)
    request_seconds: float  # to send a whole request, from its first byte
    answer_seconds: float  # to take an answer
    deadline = math.inf  # by the loop's clock
    _head = 0  # bytes so far of the request that is being read, less its body
    _reading = _in_headers = False

    @property
    def idle_since(self) -> float:
        """When its last answer ended, or its handshake, by the loop's clock; infinite while it is in use."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        in_use = self._reading or (cycle is not None and not cycle.response_complete)
        return math.inf if in_use or self.transport.is_closing() else self.deadline - self.timeout_keep_alive

    def __init__(self, *, strangers: Strangers | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._strangers = strangers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.on_made()
        if self._strangers is not None and not self._strangers.know(transport.get_extra_info("peercert")):
            self.app = self._strangers.application
        self._expect(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            self.cut_off()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = self._in_headers = True
        self._expect(self.request_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # trailers come later, and nobody reads them
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading, self._head = False, 0
        self._expect(self.answer_seconds)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect(CLOSE_SECONDS)
        elif not self._reading:  # an early answer gives nobody more time for the rest of the request
            self._expect(self.timeout_keep_alive)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: uvicorn would log two lines for each."""

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._expect(CLOSE_SECONDS)

    def cut_off(self) -> None:
        """Ends the connection without waiting for anything that is still to be sent or received."""
        self.on_cut()
        self.transport.abort()

    def _expect(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds


def cut_off_overdue(connections: Iterable[object], now: float) -> None:
    """Cuts off every connection whose client is late; `now` is by the loop's clock."""
    for connection in list(connections):
        if isinstance(connection, Connection) and connection.deadline < now:
            connection.cut_off()
