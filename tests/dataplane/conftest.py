"""What the tests of this tier share: starting pods takes longer than asking them."""

from collections.abc import Iterator

import pytest

from tests.dataplane.lab import Lab, Pod, lab
from tests.dataplane.orders import Orders, caller
from tests.dataplane.pairs import Pairs, pairs
from tests.dataplane.told import ControlPlane


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


@pytest.fixture(scope="module")
def caller_of_orders(
    node: Lab, pods: list[Pod], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pod, ControlPlane]]:
    """The replicas are the `pods` of the module."""
    with caller(node, pods, tmp_path_factory.mktemp("controlplane")) as made:
        yield made


@pytest.fixture
def orders(caller_of_orders: tuple[Pod, ControlPlane], pods: list[Pod]) -> Orders:
    """All replicas answer at once."""
    made = Orders(*caller_of_orders, pods)
    made.behave()
    return made
