"""python -m tests.soak: runs scenarios, each in its long form, and prints what they found."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic

from tests.soak import boundary, connections, handshakes, memory, outage, rotation, silence, starts
from tests.soak.table import Row, render

MISSED = 1  # exit code

Scenario = Callable[[Path, bool], Iterator[Row]]  # an empty folder for its files; whether in its short form

SCENARIOS: Mapping[str, Scenario] = {
    "memory": memory.run,
    "connections": connections.run,
    "boundary": boundary.run,
    "handshakes": handshakes.run,
    "rotation": rotation.run,
    "outage": outage.run,
    "starts": starts.run,
    "silence": silence.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a goal is missed."""
    options = _parser().parse_args(arguments)
    missed = False
    for name in options.scenarios or SCENARIOS:
        start = monotonic()
        with tempfile.TemporaryDirectory() as directory:
            rows = list(SCENARIOS[name](Path(directory), options.short))
        print(f"{name}, {monotonic() - start:.0f} s: {about(name)}\n\n{render(rows)}\n", flush=True)
        missed |= not all(row.met for row in rows)
    return MISSED if missed else 0


def about(name: str) -> str:
    """What a scenario shows: the first line of its module's docstring."""
    doc = sys.modules[SCENARIOS[name].__module__].__doc__ or ""
    return doc.partition("\n")[0]


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name}: {about(name)}" for name in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Runs long scenarios (Linux), and prints what they found.\n\nscenarios:\n{lines}",
        epilog="example: scripts/soak --short memory\nexit codes: 0 all goals met, 1 one was missed",
    )
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help="default: all")
    parser.add_argument("--short", action="store_true", help="the form that the suite runs: seconds, not minutes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
