"""10,000 handshakes that nobody ends: pods are admitted meanwhile, memory is bounded, and nothing is left of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from time import perf_counter

from tests.apiserver.processes import eventually
from tests.bench.bodies import KB, Bodies
from tests.bench.client import Target, burst, connections, keep_busy, trusting
from tests.bench.measure import percentile
from tests.mounted import renew
from tests.serving import Server, serving
from tests.soak.flood import flooding
from tests.soak.table import Row, at_most
from webhook.settings import Settings

LONG, SHORT = 10_000, 1_500
GROWTH_MB = 50
TIMEOUT_SECONDS = 5  # the registration's
LIMITS = Settings().server


@dataclass(slots=True)
class Meanwhile:
    """What was seen while the flood went on."""

    fresh: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    resident: int = 0
    descriptors: int = 0


def run(directory: Path, short: bool) -> Iterator[Row]:
    count = SHORT if short else LONG
    renew(directory / "tls")
    with serving(directory) as server:
        target = Target(server.port, trusting(server.certificate / "ca.crt"))
        burst(target, Bodies(6 * KB, differing=False).take(64))  # what every server comes to need
        before, idle = server.resident(), _descriptors(server)
        seen = _admit_meanwhile(server, target, count)
        eventually(lambda: _failed(server) >= count, "all handshakes are counted as failures")
        eventually(lambda: _descriptors(server) <= idle, "their descriptors are free")
        after, failed = server.resident(), _failed(server)
    yield Row("handshakes that were begun", f"{count:,}")
    yield Row("admitted meanwhile, over new and kept connections", f"{len(seen.fresh):,} and {len(seen.kept):,}")
    yield at_most("  slowest over a new one", max(seen.fresh), TIMEOUT_SECONDS, "s")
    yield Row("  p99 over a new one", f"{percentile(seen.fresh, 99) * 1e3:.1f} ms")
    yield at_most("  slowest over a kept one", max(seen.kept), TIMEOUT_SECONDS, "s")
    yield at_most("descriptors held at most", seen.descriptors - idle, LIMITS.max_handshakes + 64)
    yield at_most("resident memory, growth at most", (seen.resident - before) / 1e6, GROWTH_MB, "MB")
    yield Row("  growth when all are gone", f"{(after - before) / 1e6:.1f} MB")
    yield Row("counted as failures", f"{failed:,.0f}", f"{count:,}", failed == count)


def _admit_meanwhile(server: Server, target: Target, count: int) -> Meanwhile:
    """Admits pods over new and kept connections from before the flood until it is over and its last is timed out."""
    seen, body = Meanwhile(), next(Bodies(6 * KB, differing=False).take(1))
    with connections(target, 1) as kept, flooding(server.port, count) as flood:
        assert flood.stdout is not None
        until = None
        while until is None or perf_counter() < until:
            seen.fresh += burst(target, [body]).seconds
            seen.kept += keep_busy(target, kept, iter([body])).seconds
            seen.resident = max(seen.resident, server.resident())
            seen.descriptors = max(seen.descriptors, _descriptors(server))
            if until is None and select([flood.stdout], [], [], 0)[0]:
                assert flood.stdout.readline() == b"open\n"
                until = perf_counter() + LIMITS.handshake_seconds + 1
    return seen


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def _failed(server: Server) -> float:
    return server.metric("envoy_sidecar_webhook_handshake_failures_total")
