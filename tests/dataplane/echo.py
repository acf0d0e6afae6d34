"""`python3 echo.py PORT` is an application: on PORT it answers an HTTP request with its head, byte for byte as it
came; on the next port it says `hello` before it has read anything."""

import asyncio
import sys

PLAIN = b"HTTP/1.1 200 OK\r\nX-Mixed-CASE: kept\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n%s"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request and closes."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {line.split(b":")[0].strip().lower(): line.split(b":", 1)[-1].strip() for line in head.split(b"\r\n")}
    if b"upgrade" in fields:
        writer.write(SWITCH % (fields[b"upgrade"], head))
    elif head.startswith(b"CONNECT "):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + head)
    else:
        many = b"".join(b"x-answer-%d: 1\r\n" % number for number in range(int(fields.get(b"x-answer-headers", 0))))
        status = fields.get(b"x-answer-status", b"200 OK")
        writer.write((PLAIN % (len(head), many, head)).replace(b"200 OK", status, 1))
    await writer.drain()
    writer.close()


async def main(port: int) -> None:
    """Serves HTTP on the port, and `hello` on the next one, until the process is killed."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    servers = [
        await asyncio.start_server(what, ["0.0.0.0", "::"], at, limit=1 << 20)
        for at, what in ((port, answer), (port + 1, greet))
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
