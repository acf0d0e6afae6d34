"""7,000 connections to discovery that say nothing: proxies are told meanwhile, memory is bounded, none stays."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from time import perf_counter

from controlplane.xds.snapshot import Kind
from tests.apiserver.processes import eventually
from tests.bench.storm import Process, plane
from tests.mounted import renew
from tests.proxies import connected
from tests.soak.flood import flooding
from tests.soak.table import Row, at_least, at_most
from tests.tokens import token

LONG, SHORT = 7_000, 600  # one replica takes 7,516
SERVICES, USED = 100, 20
PATIENCE_SECONDS = 5.0  # after which Envoy goes on without
EACH_MB, REST_MB = 0.06, 20  # of memory: gRPC's part of a connection, and what else there is to need


def run(directory: Path, short: bool) -> Iterator[Row]:
    count = SHORT if short else LONG
    renew(directory)
    with plane(SERVICES, USED, directory) as (server, port):
        shown = _Shown(server, port, directory)
        shown.look()
        yield from shown.during("handshakes that were begun", count, silent_after_handshake=False)
        yield from shown.during("connections without a stream", count, silent_after_handshake=True)


@dataclass(slots=True)
class _Shown:
    """What was seen of the server."""

    server: Process
    port: int
    tls: Path
    seconds: list[float] = field(default_factory=list)
    memory: float = 0
    descriptors: int = 0

    def look(self) -> None:
        """A proxy comes, and is told all; how long that took, and what the server takes now."""
        start = perf_counter()
        asyncio.run(self._told())
        self.seconds.append(perf_counter() - start)
        self.memory = max(self.memory, self.server.ask("stats")["rss"])
        self.descriptors = max(self.descriptors, self._open())

    def during(self, what: str, count: int, *, silent_after_handshake: bool) -> Iterator[Row]:
        """Looks all the time until so many connections are there, and once more when they are gone."""
        before, idle = self.server.ask("stats")["rss"], self._open()
        self.seconds, self.memory, self.descriptors = [], 0, 0
        ca = self.tls / "ca.crt" if silent_after_handshake else None
        with flooding(self.port, count, ca) as flood:
            assert flood.stdout is not None
            self.look()
            while not select([flood.stdout], [], [], 0)[0]:
                self.look()
            assert flood.stdout.readline() == b"open\n"
            self.look()
            eventually(lambda: self._open() <= idle, "they are gone", seconds=60)
        self.look()
        yield Row(what, f"{count:,}")
        yield at_least("  proxies told meanwhile", len(self.seconds), 3)
        yield at_most("  slowest", max(self.seconds), PATIENCE_SECONDS, "s")
        yield Row("  open at a time, at most", f"{self.descriptors - idle:,}")
        growth = (self.memory - before) * 1.048576
        yield at_most("  memory, growth at most", growth, count * EACH_MB + REST_MB, "MB")

    async def _told(self) -> None:
        ca = (self.tls / "ca.crt").read_bytes()
        async with connected(self.port, "web-0.ns0", ca, token("ns0/web-0")) as proxy:
            await proxy.ask(Kind.CLUSTER)
            await proxy.told(Kind.CLUSTER, USED, seconds=60)

    def _open(self) -> int:
        return len(list(Path(f"/proc/{self.server.process.pid}/fd").iterdir()))
