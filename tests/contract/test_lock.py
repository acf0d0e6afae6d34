"""The lock says what pyproject.toml says. Needs no network: what changed without `scripts/lock` shows in the files."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CHECKOUT = Path(__file__).parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-go.txt")
PIN = re.compile(r"^([\w.-]+)==(\S+)(.*?)(?=^[\w.-]+==|\Z)", re.MULTILINE | re.DOTALL)


def declared(*groups: str, core: bool = True) -> dict[str, Requirement]:
    """What pyproject.toml asks for itself."""
    project: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    lines = [line for group in groups for line in project["dependency-groups"][group]]
    if core:
        lines += project["project"]["dependencies"] + project["project"]["optional-dependencies"]["controlplane"]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


ASKED = {
    "requirements.txt": declared(),
    "requirements-dev.txt": declared("dev"),
    "requirements-go.txt": declared("go", core=False),
}


def pins(lock: str) -> dict[str, tuple[str, str]]:
    """Name -> version, and everything that stands below the pin."""
    return {name: (version, below) for name, version, below in PIN.findall((CHECKOUT / lock).read_text())}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_what_pyproject_asks_for_and_nothing_it_no_longer_asks_for(lock: str) -> None:
    asked_when_locked = {name for name, (_, below) in pins(lock).items() if "(pyproject.toml" in below}
    assert asked_when_locked == set(ASKED[lock]), "run scripts/lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_satisfies_pyproject(lock: str) -> None:
    unfit = [name for name, wish in ASKED[lock].items() if not wish.specifier.contains(Version(pins(lock)[name][0]))]
    assert not unfit, "run scripts/lock"


def test_what_is_tested_is_what_is_shipped() -> None:
    tested = {name: version for name, (version, _) in pins("requirements-dev.txt").items()}
    shipped = {name: version for name, (version, _) in pins("requirements.txt").items()}
    assert shipped.items() <= tested.items(), "run scripts/lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    assert [name for name, (_, below) in pins(lock).items() if "--hash=sha256:" not in below] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_index_and_no_path(lock: str) -> None:
    assert not re.search(r"://|index-url|find-links|^/|\s/", (CHECKOUT / lock).read_text())
