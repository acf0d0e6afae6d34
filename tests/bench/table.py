"""The samples as a table: each row with the median and the extremes of the rounds, goal, aim and verdict."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.measure import Figure, Metric, Samples

BODIES = {False: "same", True: "all differ"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line. Goal and aim are upper bounds of the median, in its unit; None: nothing was promised."""

    what: str
    kind: str  # of bodies, or of paths
    ours: Sequence[float]
    naive: Sequence[float] = ()
    goal: float | None = None
    aim: float | None = None
    show: Callable[[float], str] = lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"

    @property
    def verdict(self) -> str:
        if self.goal is None or self.aim is None:
            return ""
        median = statistics.median(self.ours)
        return "aim met" if median <= self.aim else "goal met" if median <= self.goal else "MISSED"

    @property
    def missed(self) -> bool:
        return self.verdict == "MISSED"

    def cells(self) -> tuple[str, ...]:
        bounds = ("" if bound is None else f"<= {self.show(bound)}" for bound in (self.goal, self.aim))
        return (self.what, self.kind, self._range(self.ours), self._range(self.naive), *bounds, self.verdict)

    def _range(self, values: Sequence[float]) -> str:
        if not values:
            return ""
        median, least, most = map(self.show, (statistics.median(values), min(values), max(values)))
        return median if len(values) == 1 else f"{median} ({least} to {most})"


def rows(samples: Samples) -> Iterator[Row]:
    """All rows, those with goals first."""

    def row(
        what: str, metric: Metric, differing: bool | None, goal: float | None = None, aim: float | None = None
    ) -> Row:
        bodies = "" if differing is None else BODIES[differing]
        mine, other = (samples.of.get(Figure(metric, name, bool(differing)), []) for name in ("ours", "naive"))
        return Row(what, bodies, mine, other, goal, aim)

    def share(metric: Metric, differing: bool, goal: float, aim: float) -> Row:
        mine, other = (samples.of[Figure(metric, name, differing)] for name in ("ours", "naive"))
        ratios = [one / another for one, another in zip(mine, other, strict=True)]
        return Row(
            "  as a part of naive's", BODIES[differing], ratios, (), goal, aim, lambda ratio: f"1/{1 / ratio:.3g}"
        )

    for differing in BODIES:
        yield row("server CPU per admission, µs", "cpu", differing, 250, 120)
        yield share("cpu", differing, 1 / 12, 1 / 20)
        yield row("  its growth, µs per KB of body", "growth", differing, 3, 3)
        yield row("p99 at 64 connections, ms", "p99", differing)
        yield share("p99", differing, 1 / 6, 1 / 15)
        yield row("p99 of 64 fresh connections at once, ms", "burst_p99", differing)
        yield share("burst_p99", differing, 1 / 4, 1 / 4)
    yield row("first patch after exec, ms", "start", None, 550, 350)
    yield row("memory when idle, MB", "idle", None, 65, 65)
    yield row("memory after all of this, MB", "used", None)
    for differing in BODIES:
        yield row("50 admissions a second: p50, ms", "paced_p50", differing)
        yield row("50 admissions a second: p99, ms", "paced_p99", differing)
        yield row("64 fresh connections at once: p50, ms", "burst_p50", differing)


def render(table: Sequence[Row], kind: str, other: str) -> str:
    """The rows as a Markdown table that reads well as plain text too; heads for what differs, and who is compared."""
    head = ("", kind, "ours: median (min to max)", other, "goal", "aim", "verdict")
    return markdown([head, *(row.cells() for row in table)])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the head, as a Markdown table with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in ruled
    )
