"""Two, and ten, `certs` start at the same instant in an empty cluster: they make one CA and then leave it alone."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

from tests.apiserver.keeping import Keeping, installed
from tests.apiserver.processes import eventually
from tests.soak.table import Row, at_most

LONG, SHORT = 60, 3  # seconds that nothing may be written
OPTIONS = ("--period-seconds", "1", "--publication-delay-seconds", "2")


def run(directory: Path, short: bool) -> Iterator[Row]:
    with installed(directory) as keeping:
        for count in (2, 10):
            yield from _together(keeping, count, SHORT if short else LONG)
            keeping.wipe()


def _together(keeping: Keeping, count: int, seconds: int) -> Iterator[Row]:
    with keeping.started([f"of-{count}-{number}" for number in range(count)], *OPTIONS) as processes:
        for process in processes:
            eventually(process.ready, f"all is well, see {process.log}", seconds=60)
        before = keeping.versions()
        Event().wait(seconds)  # this is what is measured, not a wait for something
        after = keeping.versions()
        made = sum(len(one.steps("introduce")) for one in processes)
        yield Row(f"{count} at once: CAs made", f"{made}", "1", made == 1)
        yield Row("races lost on the way", f"{sum(one.metric('conflicts_total') for one in processes):.0f}")
        yield at_most(f"writes in the next {seconds} s", sum(after.get(one) != before[one] for one in before), 0)
        yield at_most("objects that came in it", len(after.keys() - before.keys()), 0)
        yield at_most("trusts that do not verify what is served", 0 if keeping.well() else 1, 0)
