"""Two pods with a test between them, in each way that a sidecar can stand between them; and without any."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.dataplane.lab import Lab, Pod, lab, manifest

Way = Literal["direct", "outbound", "inbound", "both"]
WAYS: tuple[Way, ...] = ("direct", "outbound", "inbound", "both")
OPAQUE, EXCLUDED = 9092, 9000
IDLE = {"name": "app", "image": "registry.example/app:1", "command": ["sleep", "infinity"]}


@dataclass(frozen=True, slots=True)
class Pairs:
    """The client's pods and the server's: with a sidecar, and as their author wrote them."""

    lab: Lab
    clients: dict[bool, Pod]
    servers: dict[bool, Pod]

    def __getitem__(self, way: Way) -> tuple[Pod, Pod]:
        """Client and server."""
        return self.clients[way in ("outbound", "both")], self.servers[way in ("inbound", "both")]


@contextmanager
def pairs(folder: Path) -> Iterator[Pairs]:
    """Four pods whose application is the test."""
    notes = {"opaque-inbound-ports": f"{OPAQUE}", "opaque-outbound-ports": f"{OPAQUE}"}
    with lab(folder) as made:
        clients, servers = (
            {with_it: made.pod(manifest(name, IDLE, annotations=notes), inject=with_it) for with_it in (True, False)}
            for name in ("client", "server")
        )
        yield Pairs(made, clients, servers)
