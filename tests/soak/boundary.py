"""3,200 requests over connections that have been idle for as long as one side keeps them: none is lost.

The API server's client closes a connection that has been idle for 90 s, ours are kept for 120 s: the client always
closes first, and never sends into a connection that is about to end. Here the same with a thirtieth of both times.
Were it the other way round, nothing that a server can do would help: what is sent while it closes is lost.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from ssl import SSLSocket
from time import perf_counter

from tests.bench.bodies import KB, Bodies
from tests.bench.client import Answers, Target, connect, exchange, trusting
from tests.bench.loop import Conversation
from tests.bench.loop import run as run_all
from tests.mounted import renew
from tests.serving import serving
from tests.soak.table import Row, at_most

CONNECTIONS, LONG, SHORT = 64, 50, 4
KEPT, IDLE = 4, 3  # seconds: 120 and 90, by 30
NEAR = 0.02  # as a part of the time: how near the boundary requests come


@dataclass(slots=True)
class Client:
    """Keeps connections for `keeps` seconds, and sends over each when it has been idle for about `idle` seconds."""

    target: Target
    keeps: float
    idle: float
    random: Random
    answers: Answers = field(default_factory=Answers)
    opened: int = 0
    lost: int = 0

    def converse(self, bodies: Iterator[bytes]) -> Conversation:
        """Sends them over one connection after the other; what is lost is sent once more over a new one."""
        held: list[SSLSocket] = []
        since = 0.0
        for body in bodies:
            if held and perf_counter() - since >= self.keeps:
                held.pop().close()
            for _ in range(2):
                if not held:
                    self.opened += 1
                    yield from connect(self.target, held.append)
                try:
                    yield from exchange(held[0], self.target.request(body), self.answers.add)
                    break
                except OSError:
                    self.lost += 1
                    held.pop().close()
            since = perf_counter()
            yield since + self.idle * self.random.uniform(1 - NEAR, 1 + NEAR)
        for sock in held:
            with suppress(OSError):
                sock.close()


def run(directory: Path, short: bool) -> Iterator[Row]:
    rounds = SHORT if short else LONG
    renew(directory / "tls")
    with serving(directory, f"server: {{keepAliveSeconds: {KEPT}, shutdownGraceSeconds: 0}}") as server:
        target = Target(server.port, trusting(server.certificate / "ca.crt"))
        like_theirs = _send(Client(target, keeps=IDLE, idle=IDLE, random=Random(1)), rounds)
        too_long = _send(Client(target, keeps=2 * KEPT, idle=KEPT, random=Random(2)), SHORT)
    yield Row("requests, each over a connection near the client's end", f"{len(like_theirs.answers.seconds):,}")
    yield Row("  connections that they took", f"{like_theirs.opened:,}")
    yield at_most("  lost", like_theirs.lost, 0)
    yield Row("requests near our own end of a connection", f"{len(too_long.answers.seconds):,}")
    yield Row("  lost, and answered when sent again", f"{too_long.lost:,}")
    yield at_most("  never answered", CONNECTIONS * SHORT - len(too_long.answers.seconds), 0)


def _send(client: Client, rounds: int) -> Client:
    bodies = Bodies(6 * KB, differing=False)
    run_all(client.converse(bodies.take(rounds)) for _ in range(CONNECTIONS))
    return client
