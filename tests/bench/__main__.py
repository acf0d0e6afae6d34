"""python -m tests.bench: measures the webhook beside a naive one, sidecars beside none, or discovery."""

import argparse
import os
import platform
import ssl
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from tests import needs
from tests.bench import hops, storm
from tests.bench.measure import CPU_CONNECTIONS, FULL, QUICK, SCALE, SIZES, measure
from tests.bench.table import Row, render, rows

MISSED, UNUSABLE = 1, 2  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a goal is missed, except with --quick, whose numbers judge nothing."""
    options = _parser().parse_args(arguments)
    start, load = monotonic(), os.getloadavg()[0]
    try:
        table = {"webhook": _webhook, "sidecar": _sidecar, "discovery": _discovery}[options.what](options)
    except needs.MISSING as missing:
        print(f"scripts/bench: {missing}", file=sys.stderr)
        return UNUSABLE
    print(
        f"In {monotonic() - start:.0f} s. Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, "
        f"{os.cpu_count()} CPUs; load average before the start: {load:.1f}."
    )
    return MISSED if not options.quick and any(row.missed for row in table) else 0


def _webhook(options: argparse.Namespace) -> list[Row]:
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = replace(plan, rounds=options.rounds, starts=options.rounds)
    samples = measure(plan)
    table = list(rows(samples))
    print(render(table, "bodies", "naive"))
    print(
        f"\nReviews of {SIZES[0]} KB over TLS 1.3 with keep-alive; CPU at {CPU_CONNECTIONS} connections. "
        f"{plan.rounds} rounds, interleaved.\n"
        f"For scale: json.loads of one review took {statistics.median(samples.of[SCALE]):.0f} µs."
    )
    return table


def _sidecar(options: argparse.Namespace) -> list[Row]:
    plan = hops.QUICK if options.quick else hops.FULL
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    table = list(hops.rows(hops.measure(plan)))
    print(render(table, "path", "floor"))
    print(f"\nHTTP/1.1 from pod to pod, bodies of 512 bytes; {plan.rounds} rounds, interleaved.")
    return table


def _discovery(options: argparse.Namespace) -> list[Row]:
    plan = storm.QUICK if options.quick else storm.FULL
    if options.rounds:
        plan = replace(plan, changes=options.rounds)
    table = list(storm.rows(storm.measure(plan)))
    print(render(table, "", "go-control-plane"))
    print(f"\n{plan.proxies} streams by TLS, {plan.services} Services, {storm.USED} of them used by each proxy.")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures on this machine (Linux), in one run, and prints a table: the webhook beside a naive one, "
        "requests through sidecars beside requests without (as root, with h2load of nghttp2-client), or discovery with "
        "thousands of proxies.",
        epilog="exit codes: 0 all goals met, 1 one was missed, 2 this machine lacks a part",
    )
    parser.add_argument("what", nargs="?", choices=["webhook", "sidecar", "discovery"], default="webhook")
    parser.add_argument("--quick", action="store_true", help="less of everything, in 20 s; judges nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of measuring (default: {FULL.rounds})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
