"""Golden files: what the product renders, whole, in tests/golden for a person to read and compare.

`scripts/golden` deletes them all and writes them anew, so that none outlives its test.
"""

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Fails unless the golden file `name`, a path below tests/golden, holds `text`; UPDATE_GOLDEN writes it."""
    path = DIRECTORY / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"there is no golden file {name}: run scripts/golden"
    assert text == path.read_text(encoding="utf-8"), f"{name} differs: run scripts/golden and read the difference"
