"""The commands of a page of the docs: fences `sh`, by the section that they stand in."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(
    r"^#{2,} (?P<heading>[^\n]+)$|^(?P<indent> *)```sh\n(?P<commands>.*?)^ *```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Fence:
    """One fence, the `number`th of its section."""

    section: str
    number: int
    commands: str

    def __str__(self) -> str:
        return f"{self.section} {self.number}"


def fences(page: Path) -> list[Fence]:
    """All fences `sh` of a page, in its order."""
    found: list[Fence] = []
    section, number = "", 0
    for part in _PART.finditer(page.read_text()):
        if part["heading"]:
            section, number = part["heading"], 0
        else:
            number += 1
            found.append(Fence(section, number, textwrap.dedent(part["commands"])))
    return found
