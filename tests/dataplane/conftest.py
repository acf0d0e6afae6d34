"""What the tests of this tier share: starting pods takes longer than asking them."""

from collections.abc import Iterator

import pytest

from tests.dataplane.lab import Lab, lab
from tests.dataplane.pairs import Pairs, pairs


@pytest.fixture(scope="session")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    """Pods with and without a sidecar, for whatever leaves them as they are."""
    with pairs(tmp_path_factory.mktemp("pairs")) as made:
        yield made


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A node without pods, for the tests of one module."""
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made
