"""What a Service is in a cluster: one address in front of several replicas, each new TCP connection
to the next of them. Knows nothing of HTTP or TLS.

A process of its own, so that what a test does costs no time in the path that it measures:
`python -m tests.apiserver.balancer PORT...` listens on a free loopback port, which it prints.
"""

import asyncio
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.apiserver.processes import eventually, running

CHUNK_BYTES = 64 * 1024


@contextmanager
def balanced(log: Path, backends: Sequence[int]) -> Iterator[int]:
    """The port in front of these loopback ports."""
    command = [sys.executable, "-m", __name__, *map(str, backends)]
    with running(command, log, cwd=Path(__file__).parents[2], patient=False):
        yield int(eventually(lambda: log.read_text().strip(), f"the balancer listens, see {log}"))


async def serve(backends: Sequence[int]) -> None:
    firsts = itertools.cycle(range(len(backends)))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A replica that has stopped listening is no endpoint any more: the next one gets the connection. The order is
        # each connection's own: two at once that shared one could each meet only those that do not listen.
        first = next(firsts)
        for port in (*backends[first:], *backends[:first]):
            with suppress(ConnectionError):
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer), return_exceptions=True)
                break
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copies until one side ends, then ends the other."""
    try:
        while chunk := await source.read(CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    finally:
        sink.close()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
