"""Each target is built once per session, by one worker."""

from pathlib import Path

import pytest

from tests import needs
from tests.image.builder import Image, Store, default_store

HERE = Path(__file__).parent
REMEDY = "as root: apt-get install buildah mmdebstrap"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is of this tier, and shares one store."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.xdist_group("image"))


@pytest.fixture(scope="session")
def store() -> Store:
    needs.root(REMEDY)
    needs.binary("buildah", REMEDY)
    needs.binary("mmdebstrap", REMEDY)
    return default_store()


@pytest.fixture(scope="session")
def server(store: Store) -> Image:
    return store.build("server")


@pytest.fixture(scope="session")
def init(store: Store) -> Image:
    return store.build("init")
