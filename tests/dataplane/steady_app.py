"""`steady_app.py ADDRESS HOST CONNECTIONS RATE` sends so many GETs a second over so many connections, kept, and none
twice. When it is told to end, it prints a line for each: the seconds that its answer took, or what else came.
"""

import http.client
import signal
import sys
import time
from threading import Event, Thread


def drive(address: str, host: str, interval: float, over: Event, lines: list[str]) -> None:
    """One connection's share."""
    connection = http.client.HTTPConnection(address, 80, timeout=5)
    due = time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        due += interval
        began = time.monotonic()
        try:
            connection.request("GET", "/", headers={"Host": host})
            response = connection.getresponse()
            response.read()
            lines.append(f"{time.monotonic() - began}" if response.status == 200 else f"status {response.status}")
        except (OSError, http.client.HTTPException) as error:
            lines.append(repr(error))
            connection.close()
    connection.close()


def main(address: str, host: str, connections: int, rate: float) -> None:
    """Until SIGTERM."""
    over, lines = Event(), list[str]()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    threads = [Thread(target=drive, args=(address, host, connections / rate, over, lines)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
