"""One connection: uvicorn's, with an end to everything that a client may leave open.

uvicorn bounds the idle time between two requests only. Here each state has a deadline, and the head of a request a
size; `cut_off_overdue` is to be called every second. That costs one assignment per state, a timer would cost 1 µs.
"""

import asyncio
import math
from collections.abc import Callable, Iterable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10  # bytes of request line and headers; the API server sends 0.5 KiB
REQUEST_SECONDS = 5  # to send a whole request, from its first byte: what the registration gives for all of it
CLOSE_SECONDS = 1  # for the client to agree to the end of a TLS connection
ANSWER_SECONDS = 60  # to take an answer


class Connection(HttpToolsProtocol):
    """Speaks HTTP/1.1 with one client. `on_cut` is called when a connection is ended by us."""

    on_cut: Callable[[], None] = staticmethod(lambda: None)
    deadline = math.inf  # by the loop's clock
    _head: int | None = None  # bytes so far; None: not reading one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.cut_off()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._expect(REQUEST_SECONDS)

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._expect(ANSWER_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect(CLOSE_SECONDS if self.transport.is_closing() else self.timeout_keep_alive)

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
