"""Memory stays as it is over 200,000 admissions, no two alike, and 500 certificates.

A round: a new certificate, fresh connections that see it, admissions over them. What the caches may hold is held
after the first rounds; from there on nothing may grow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.apiserver.processes import eventually
from tests.bench.bodies import KB, Bodies
from tests.bench.client import Target, connections, keep_busy, trusting
from tests.mounted import renew
from tests.serving import Server, serving
from tests.soak.table import Row, at_least, at_most

RELOADS = "envoy_sidecar_webhook_certificate_reloads_total"
CONNECTIONS = 8
SPREAD_MB = 5


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    warm_up: int  # of these rounds
    admissions: int  # in each


LONG = Plan(rounds=500, warm_up=50, admissions=400)
SHORT = Plan(rounds=10, warm_up=4, admissions=400)


def run(directory: Path, short: bool) -> Iterator[Row]:
    plan, bodies = SHORT if short else LONG, Bodies(6 * KB, differing=True)
    renew(directory / "tls")
    with serving(directory) as server:
        idle = _megabytes(server)
        resident = [_round(server, number, bodies, plan.admissions) for number in range(plan.rounds)]
        admissions = server.metric("envoy_sidecar_webhook_admissions_total", decision="injected")
        reloads = server.metric(RELOADS, result="success")
    warm = resident[plan.warm_up - 1 :]
    yield at_least("admissions, each of another pod", admissions, plan.rounds * plan.admissions)
    yield at_least("certificates", reloads, plan.rounds)
    yield Row("resident before the first", f"{idle:.1f} MB")
    yield Row(f"resident after {plan.warm_up} rounds", f"{warm[0]:.1f} MB")
    yield Row("resident at the end", f"{warm[-1]:.1f} MB")
    yield at_most("furthest from there on", max(abs(one - warm[0]) for one in warm), SPREAD_MB, "MB")


def _round(server: Server, number: int, bodies: Bodies, admissions: int) -> float:
    renew(server.certificate)
    eventually(lambda: server.metric(RELOADS, result="success") > number, "the new certificate is served")
    target = Target(server.port, trusting(server.certificate / "ca.crt"))
    with connections(target, CONNECTIONS) as sockets:
        keep_busy(target, sockets, bodies.take(admissions))
    return _megabytes(server)


def _megabytes(server: Server) -> float:
    return server.resident() / 1e6
