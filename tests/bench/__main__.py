"""python -m tests.bench: measures the webhook beside the naive one and prints the table."""

import argparse
import os
import platform
import ssl
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from tests.bench.measure import CPU_CONNECTIONS, FULL, QUICK, SCALE, SIZES, measure
from tests.bench.table import render, rows

MISSED = 1  # exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a goal is missed, except with --quick, whose numbers judge nothing."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = replace(plan, rounds=options.rounds, starts=options.rounds)
    start, load = monotonic(), os.getloadavg()[0]
    samples = measure(plan)
    table = list(rows(samples))
    scale = statistics.median(samples.of[SCALE])
    print(render(table))
    print(
        f"\nReviews of {SIZES[0]} KB over TLS 1.3 with keep-alive; CPU at {CPU_CONNECTIONS} connections.\n"
        f"{plan.rounds} rounds, interleaved, in {monotonic() - start:.0f} s. Python {platform.python_version()}, "
        f"{ssl.OPENSSL_VERSION}, {os.cpu_count()} CPUs.\n"
        f"For scale: json.loads of one review took {scale:.0f} µs; load average before the start: {load:.1f}."
    )
    return MISSED if not options.quick and any(row.missed for row in table) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures the webhook beside a naive one, in one run on this machine (Linux), and prints a table.",
        epilog="exit codes: 0 all goals met, 1 one was missed",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, in 20 s; judges nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of measuring (default: {FULL.rounds})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
