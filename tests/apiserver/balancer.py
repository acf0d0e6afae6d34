"""What a Service is in a cluster: one address in front of several replicas, each new TCP connection
to the next of them. Knows nothing of HTTP or TLS."""

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

CHUNK_BYTES = 64 * 1024


@contextmanager
def balanced(backends: Sequence[int]) -> Iterator[int]:
    """Listens on a free loopback port, which it yields, and forwards to these loopback ports in turn."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(listen(backends))
    thread = threading.Thread(target=loop.run_forever, name="balancer")
    thread.start()
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(hang_up(listening), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def listen(backends: Sequence[int]) -> asyncio.Server:
    turns = itertools.cycle(backends)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", next(turns))
            await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copies until one side ends, then ends the other."""
    try:
        while chunk := await source.read(CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    finally:
        sink.close()


async def hang_up(listening: asyncio.Server) -> None:
    """Stops listening and cuts every connection."""
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
