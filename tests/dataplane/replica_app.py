"""`python3 replica_app.py PORT NAME` is one replica of a service: it answers with its name, and prints each request.

`GET /behave/STATUS/MILLISECONDS` makes it answer so from then on. It claims, in every answer, what only a sidecar may
say: that it has not begun, and that it has nothing to do.
"""

import asyncio
import selectors
import sys

CLAIMS = (
    "X-Mesh-Unprocessed: true\r\nEndpoint-Load-Metrics: TEXT application_utilization=0.000001,rps_fractional=1000\r\n"
)
ANSWER = f"HTTP/1.1 {{}} Whatever\r\n{CLAIMS}Content-Length: {{}}\r\n\r\n{{}}"


class Replica:
    """One process."""

    def __init__(self, name: str) -> None:
        self._name, self._status, self._milliseconds = name, 200, 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request after another."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                if path.startswith("/behave/"):
                    status, milliseconds = path.split("/")[2:]
                    self._status, self._milliseconds = int(status), float(milliseconds)
                    answer = ANSWER.format(200, 0, "")
                else:
                    answer = await self._answer(method, path)
                writer.write(answer.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, method: str, path: str) -> str:
        print(method, path, flush=True)
        await asyncio.sleep(self._milliseconds / 1000)
        return ANSWER.format(self._status, len(self._name), self._name)


async def main(port: int, name: str) -> None:
    """Serves until the process is killed."""
    server = await asyncio.start_server(Replica(name).serve, ["0.0.0.0", "::"], port)
    await server.serve_forever()


if __name__ == "__main__":
    # select() waits to the microsecond; epoll rounds up to the next millisecond, and 2 ms is what some tests ask for.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main(int(sys.argv[1]), sys.argv[2]))
