"""What the tests of this tier share: starting pods takes longer than asking them."""

from collections.abc import Iterator

import pytest

from tests.dataplane.pairs import Pairs, pairs


@pytest.fixture(scope="session")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    """Pods with and without a sidecar, for whatever leaves them as they are."""
    with pairs(tmp_path_factory.mktemp("pairs")) as made:
        yield made
