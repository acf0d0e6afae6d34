"""`python3 replica_app.py PORT NAME` is one replica of a service: it answers with its name, and prints each request.

`GET /behave/STATUS/MILLISECONDS` makes it answer so from then on. Like the sidecar beside it, it reports how long its
answers take, which is what latency-aware balancing weighs by.
"""

import asyncio
import sys

REPORT = "endpoint-load-metrics: TEXT application_utilization={:.6f},rps_fractional=1\r\n"
ANSWER = "HTTP/1.1 {} Whatever\r\nContent-Length: {}\r\n{}\r\n{}"


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
                    answer = ANSWER.format(200, 0, "", "")
                else:
                    answer = await self._answer(method, path)
                writer.write(answer.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, method: str, path: str) -> str:
        print(method, path, flush=True)
        await asyncio.sleep(self._milliseconds / 1000)
        report = REPORT.format(max(self._milliseconds, 1) / 1000)
        return ANSWER.format(self._status, len(self._name), report, self._name)


async def main(port: int, name: str) -> None:
    """Serves until the process is killed."""
    server = await asyncio.start_server(Replica(name).serve, ["0.0.0.0", "::"], port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
