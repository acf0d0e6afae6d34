"""Load at a steady rate, over connections that are kept, from a client that does not try again."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.dataplane.lab import Pod


@dataclass(slots=True)
class Steady:
    """GETs of an application to port 80 of an address, and what came of them."""

    client: Pod
    address: str
    host: str = ""  # the Host of each; the address, if empty
    seconds: list[float] = field(default_factory=list)  # of each that was answered 200
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, *, connections: int, rate: float) -> Iterator[None]:
        """So many requests a second over so many connections, until the block ends."""

        def drive() -> None:
            self.client.call(lambda: self._drive(connections / rate))

        threads = [threading.Thread(target=drive) for _ in range(connections)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _drive(self, interval: float) -> None:
        connection = http.client.HTTPConnection(self.address, 80, timeout=5)
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += interval
            began = time.monotonic()
            try:
                connection.request("GET", "/", headers={"Host": self.host or self.address})
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.seconds.append(time.monotonic() - began)
                else:
                    self.failures.append(f"{response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()
