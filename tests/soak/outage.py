"""The API server is away when a certificate is to be renewed: it is renewed afterwards, and nothing is lost."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from certs import chain
from tests.apiserver import binaries, control_plane
from tests.apiserver.keeping import WEBHOOK, Process, install
from tests.apiserver.processes import eventually
from tests.soak.table import Row, at_least, at_most

LONG, SHORT = 200, 24  # seconds that a certificate is valid; two thirds of them, less the start, is the outage


def run(directory: Path, short: bool) -> Iterator[Row]:
    for program in ("kube-apiserver", "kubectl"):
        binaries.kubernetes(program)
    leaf = SHORT if short else LONG
    options = ("--period-seconds", "1", "--leaf-days", str(leaf / 86400), "--ca-days", "1")
    with control_plane.etcd(directory) as store, ExitStack() as stack:
        cluster = control_plane.described(directory)
        with control_plane.serving(cluster, store):
            keeping = install(cluster)
            certs = stack.enter_context(keeping.running("certs", *options))
            eventually(certs.ready, f"all is well, see {certs.log}")
            trusted, served = keeping.trusts(), keeping.secret(WEBHOOK)["tls.crt"]
        gone, renewal = datetime.now(UTC), chain.facts(served).validity.renewal
        eventually(lambda: datetime.now(UTC) > renewal, "it is time for another certificate", seconds=leaf)
        failures = certs.metric("failures_total", reason="unreachable")
        with control_plane.serving(cluster, store):
            back = datetime.now(UTC)
            eventually(lambda: keeping.secret(WEBHOOK)["tls.crt"] != served, "there is another certificate")
            yield at_least("the API server was away", (back - gone).total_seconds(), 1 if short else 120, "s")
            yield at_least("times that certs asked in vain, and counted it", failures, 1)
            yield at_most("until the certificate was renewed", (datetime.now(UTC) - back).total_seconds(), 30, "s")
            yield at_most("CAs made", len(certs.steps("introduce")), 1)
            yield at_most("trusts that changed", sum(a != b for a, b in zip(trusted, keeping.trusts(), strict=True)), 0)
            yield at_most("trusts that do not verify it", 0 if keeping.well() else 1, 0)
            yield at_most("processes that ended", _ended(certs), 0)


def _ended(certs: Process) -> int:
    return 0 if certs.process.poll() is None else 1
