"""Accepts connections, and bounds how many there are: whoever opens ten thousand must not keep the API server out.

At the bound, what gives way is what has been waiting longest: a connection between two requests, or a handshake whose
client has not answered for a while. Refusing new ones instead would give every place to those who only sit on it. Where
nothing can give way, as in a storm of real clients, new ones wait in the kernel's queue.
"""

import asyncio
import heapq
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from socket import SO_RCVBUF, SOL_SOCKET, socket

from webhook.connection import Connection
from webhook.metrics import Metrics

ACCEPTED = 8  # in one turn of the loop: handshakes go on between two turns, so that real ones do not pile up
SHARE = 16  # of the idle connections that give way at once: to look for them takes longer than to end them
PAUSE_SECONDS = 0.02  # without accepting, while nothing can give way or no descriptor is left
RECEIVE_BYTES = 64 << 10  # at a time: the buffers of TLS grow to four times what comes at once, and stay so
STALE_SECONDS = 0.5  # from here on, what waits may give way; hundreds of real handshakes at once take less


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one port takes at a time. Handshakes count as connections."""

    connections: int
    handshakes: int
    handshake_seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """The connections that are open: `create` makes one, which is in `all` from its handshake to its end."""

    create: Callable[[], Connection]
    all: Collection[object]


class Listener:
    """Serves one socket, in the place of an asyncio.Server. `context` gives the TLS of the next connection, or None."""

    def __init__(
        self,
        listening: socket,
        opened: Open,
        context: Callable[[], ssl.SSLContext | None],
        limits: Limits,
        counted: Metrics,
    ) -> None:
        self._socket, self._opened, self._context = listening, opened, context
        self._limits, self._metrics = limits, counted
        self._handshakes: dict[asyncio.Task[None], float] = {}  # when each began, the oldest first
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)  # of what is accepted too
        self._resume()

    def __len__(self) -> int:
        """Connections at this moment, with those in their handshake."""
        return len(self._opened.all) + len(self._handshakes)

    def close(self) -> None:
        """Accepts whoever waits already, and refuses the next. Who is in a handshake may end it."""
        if self._socket.fileno() < 0:
            return
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._socket)
        with suppress(OSError):  # when nobody waits any more
            while True:
                self._take(self._socket.accept()[0])
        self._socket.close()

    async def wait_closed(self) -> None:
        """Ends the handshakes that are left."""
        for task in list(self._handshakes):
            task.cancel()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._socket, self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)
        self._resuming = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _accept(self) -> None:
        """Somebody waits to be accepted."""
        free = min(self._limits.connections - len(self), self._limits.handshakes - len(self._handshakes))
        if free <= 0:
            return None if self._make_room() else self._pause()
        for _ in range(min(free, ACCEPTED)):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return None
            except OSError:  # no descriptor is left, in this process or on the machine
                return self._pause()
            self._take(accepted)
        return None

    def _take(self, accepted: socket) -> None:
        accepted.setblocking(False)
        self._handshakes[self._loop.create_task(self._open(accepted))] = self._loop.time()

    def _make_room(self) -> bool:
        """For somebody who waits; he is accepted in the next turn."""
        return self._drop_stale() or (len(self._handshakes) < self._limits.handshakes and self._crowd_out())

    def _drop_stale(self) -> bool:
        """Ends the oldest of those handshakes that are stale. False if there is none."""
        stale_before = self._loop.time() - STALE_SECONDS
        oldest = list(islice(self._handshakes.items(), ACCEPTED))
        stale = [task for task, began in oldest if began < stale_before]
        for task in stale:
            del self._handshakes[task]  # now: it ends in the next turn only
            task.cancel()
        return bool(stale)

    def _crowd_out(self) -> bool:
        """Ends some of the connections that have been idle longest. False if none has been for a while."""
        stale_before = self._loop.time() - STALE_SECONDS
        mine = (one for one in self._opened.all if isinstance(one, Connection))
        idle = [one for one in mine if one.idle_since < stale_before]
        longest = heapq.nsmallest(-(-len(idle) // SHARE), idle, key=lambda one: one.deadline)
        for connection in longest:
            self._metrics.connections_crowded_out.inc()
            connection.transport.abort()
        return bool(longest)

    async def _open(self, accepted: socket) -> None:
        task, connection, context = asyncio.current_task(), self._opened.create(), self._context()
        assert task is not None
        connection.on_made = lambda: self._handshakes.pop(task, None)
        patience = None if context is None else self._limits.handshake_seconds
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=context, ssl_handshake_timeout=patience
            )
        except asyncio.CancelledError:
            self._metrics.handshake_failed("crowded_out")
        except ssl.SSLError:
            self._metrics.handshake_failed("refused")
        except ConnectionAbortedError:  # uvloop's, after handshake_seconds
            self._metrics.handshake_failed("timeout")
        except OSError:
            self._metrics.handshake_failed("gone")
        finally:
            self._handshakes.pop(task, None)
