"""Many conversations over sockets in one thread, for less than an event loop of general use costs.

Each is a generator that yields what it waits for: a socket to be readable or writable, or a time.
"""

import gc
import heapq
import select
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from time import perf_counter

PATIENCE_SECONDS = 30  # as long as kube-apiserver waits for a webhook at most
READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT

Wait = tuple[int, int] | float  # a file descriptor and READABLE or WRITABLE; or the time.perf_counter() to wake at
Conversation = Generator[Wait, None, None]


def run(conversations: Iterable[Conversation]) -> None:
    """Runs the conversations side by side, to their ends.

    Raises TimeoutError when nothing happens for PATIENCE_SECONDS, and whatever a conversation raises.
    """
    gc.disable()  # its pauses would count as the server's
    try:
        with select.epoll() as poll:
            loop = _Loop(poll)
            for conversation in list(conversations):
                loop.step(conversation)
            while loop.waiting or loop.sleeping:
                loop.turn()
    finally:
        gc.enable()


@dataclass(slots=True)
class _Loop:
    poll: select.epoll
    waiting: dict[int, Conversation] = field(default_factory=dict)
    sleeping: list[tuple[float, int, Conversation]] = field(default_factory=list)

    def step(self, conversation: Conversation) -> None:
        match next(conversation, None):
            case None:
                pass
            case (fd, event):
                self.waiting[fd] = conversation
                self._watch(fd, event | select.EPOLLONESHOT)
            case due:
                heapq.heappush(self.sleeping, (due, id(conversation), conversation))

    def _watch(self, fd: int, event: int) -> None:
        try:
            self.poll.modify(fd, event)
        except FileNotFoundError:
            self.poll.register(fd, event)

    def turn(self) -> None:
        patience = self.sleeping[0][0] - perf_counter() if self.sleeping else PATIENCE_SECONDS
        events = self.poll.poll(max(patience, 0))
        if not events and not self.sleeping:
            raise TimeoutError(f"no answer for {PATIENCE_SECONDS} s on {len(self.waiting)} connections")
        for fd, _ in events:
            self.step(self.waiting.pop(fd))
        while self.sleeping and self.sleeping[0][0] <= perf_counter():
            self.step(heapq.heappop(self.sleeping)[2])
