"""As many connections as the settings allow, whatever they carry: memory stays below what a pod has.

A connection's buffers grow with what comes at once, and stay until it ends.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from ssl import SSLSocket

from tests.bench.bodies import KB, Bodies
from tests.bench.client import Target, connections, keep_busy, trusting
from tests.mounted import renew
from tests.serving import Server, serving
from tests.soak.flood import allow
from tests.soak.table import Row, at_most
from webhook.settings import Settings

TOGETHER = 50
SIZES_KB = (6, 32, 256, 2048)
LONG, SHORT = Settings().server.max_connections - 12, 100  # some are left for who looks
POD_MB = 256 * 1.048576  # the Deployment's limit


def run(directory: Path, short: bool) -> Iterator[Row]:
    count = SHORT if short else LONG
    allow(count)
    renew(directory / "tls")
    with serving(directory) as server:
        target = Target(server.port, trusting(server.certificate / "ca.crt"))
        yield Row("resident before", f"{_megabytes(server):.1f} MB")
        with _opened(target, count) as sockets:
            yield Row(f"{count:,} idle connections that carried nothing", f"{_megabytes(server):.1f} MB")
            for size in SIZES_KB:
                body = next(Bodies(size * KB, differing=False).take(1))
                for sock in sockets:
                    keep_busy(target, [sock], iter([body, body]))
                yield at_most(f"  and requests of {size:,} KB", _megabytes(server), POD_MB, "MB")
            left = server.metric("envoy_sidecar_webhook_connections")
        yield Row("of them open at the end", f"{left:,.0f}", f"{count:,}", left == count)


@contextmanager
def _opened(target: Target, count: int) -> Iterator[list[SSLSocket]]:
    """So many connections, opened a few at a time: this client, of one thread, is slow at handshakes."""
    with ExitStack() as stack:
        yield [one for _ in range(count // TOGETHER) for one in stack.enter_context(connections(target, TOGETHER))]


def _megabytes(server: Server) -> float:
    return server.resident() / 1e6
