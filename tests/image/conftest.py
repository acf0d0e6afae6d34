"""Each target is built once per session, by one worker."""

import pytest

from tests import needs
from tests.image.builder import Image, Store, default_store

REMEDY = "as root: apt-get install buildah mmdebstrap"


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
