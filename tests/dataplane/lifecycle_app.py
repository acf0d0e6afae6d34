"""Small applications: `lifecycle_app.py fetch ADDRESS PORT` is a job that makes one request, and ends with 0 if it is
answered 200; `lifecycle_app.py web PORT` a server that closes what is open when it is told to end."""

import asyncio
import http.client
import signal
import sys


def fetch(address: str, port: int) -> int:
    """The exit code."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
    print(status, flush=True)
    return 0 if status == 200 else 1


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers requests over one connection, which is kept."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def web(port: int) -> None:
    """Serves until SIGTERM, then closes at once what is open, as many servers do."""
    server = await asyncio.start_server(answer, ["0.0.0.0", "::"], port, backlog=1024)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        sys.exit(fetch(sys.argv[2], int(sys.argv[3])))
    asyncio.run(web(int(sys.argv[2])))
