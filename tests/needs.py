"""What a test needs from the machine. A missing part is a visible skip for a person and a failure
in CI, where it would otherwise hide that nothing was tested."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

MISSING = (pytest.skip.Exception, pytest.fail.Exception)  # what ends a test here


def missing(what: str, remedy: str) -> NoReturn:
    """Ends the test: `what` is not here, `remedy` says what would bring it.

    Raises pytest's skip, or its failure when the environment sets `CI`.
    """
    message = f"needs {what}: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def binary(name: str, remedy: str) -> Path:
    """The program of that name on PATH, or the end of the test."""
    found = shutil.which(name)
    if found is None:
        missing(name, remedy)
    return Path(found)


def root(remedy: str) -> None:
    """Ends the test unless it runs as uid 0."""
    if os.geteuid() != 0:
        missing("root", remedy)
