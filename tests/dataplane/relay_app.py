"""`python3 relay_app.py PORT ADDRESS PORT` is an application that does something of its own, here to print the request,
asks another for the rest, and passes its answer on whole, headers and all."""

import asyncio
import sys


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int) -> None:
    """One request, and the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        print(*head.decode().split(" ", 2)[:2], flush=True)
        other, asked = await asyncio.open_connection(address, port)
        asked.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.write(await other.read())
        asked.close()
        await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    writer.close()


async def main(port: int, address: str, other: int) -> None:
    """Serves until the process is killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, address, other)

    server = await asyncio.start_server(serve, ["0.0.0.0", "::"], port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
