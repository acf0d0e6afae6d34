"""Load at a steady rate, from a process of its own in a pod's network: what it measures is not held up by the test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.apiserver.processes import eventually, running
from tests.dataplane.container import CHECKOUT
from tests.dataplane.lab import Pod

PROGRAM = CHECKOUT / "tests" / "dataplane" / "steady_app.py"


@dataclass(slots=True)
class Steady:
    """GETs of an application to port 80 of an address, and what came of them."""

    client: Pod
    address: str
    host: str
    seconds: list[float] = field(default_factory=list)  # of each that was answered 200
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, *, connections: int, rate: float) -> Iterator[None]:
        """So many requests a second over so many connections, until the block ends."""
        log = self.client.folder / f"steady-{self.host}.log"
        command = ["nsenter", f"--net={self.client.net.path}", sys.executable, str(PROGRAM)]
        with running([*command, self.address, self.host, f"{connections}", f"{rate}"], log):
            eventually(lambda: "begun" in log.read_text(), "requests are sent")
            yield
        for line in log.read_text().splitlines()[1:]:
            try:
                self.seconds.append(float(line))
            except ValueError:
                self.failures.append(line)
