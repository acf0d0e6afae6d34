"""What a scenario found, as a table: each row a figure, what was promised, and whether that was kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.table import markdown


@dataclass(frozen=True, slots=True)
class Row:
    """One line. Without a goal nothing was promised."""

    what: str
    measured: str
    goal: str = ""
    met: bool = True

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.what, self.measured, self.goal, ("met" if self.met else "MISSED") if self.goal else "")


def at_most(what: str, measured: float, limit: float, unit: str = "") -> Row:
    """A row whose goal is an upper bound."""
    return Row(what, _show(measured, unit), f"<= {_show(limit, unit)}", measured <= limit)


def at_least(what: str, measured: float, limit: float, unit: str = "") -> Row:
    """A row whose goal is a lower bound."""
    return Row(what, _show(measured, unit), f">= {_show(limit, unit)}", measured >= limit)


def _show(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def render(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table that reads well as plain text too."""
    return markdown([("", "measured", "goal", "verdict"), *(row.cells for row in rows)])
