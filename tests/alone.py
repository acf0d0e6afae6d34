"""Tests that measure time have the machine to themselves: those of other workers wait until they are done."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Two locks, as a worker goes from test to test without a pause: whoever waits for the machine holds the gate meanwhile.
# They are no files of their own: all workers have these, and nothing is left behind.
GATE, MACHINE = Path(__file__), Path(__file__).parent


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """One test's: together with others' that are not `alone` either, or with nobody's."""
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with _opened(MACHINE) as machine:
        with _opened(GATE) as gate:
            fcntl.flock(gate, how)
            fcntl.flock(machine, how)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Unlocked at the end, even if a process that a test forked still has it open."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)
