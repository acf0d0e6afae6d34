"""Every scenario in its short form. What takes hours to show is for `scripts/soak`."""

from pathlib import Path

import pytest

from tests.soak.__main__ import SCENARIOS
from tests.soak.table import render


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_goal_is_met(tmp_path: Path, name: str) -> None:
    rows = list(SCENARIOS[name](tmp_path, True))
    assert all(row.met for row in rows), f"\n{render(rows)}"
