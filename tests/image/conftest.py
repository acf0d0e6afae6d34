"""Each target is built once per session, by one worker."""

import pytest

from tests import needs
from tests.image.builder import Image, Store, default_store

REMEDY = "apt-get install buildah mmdebstrap"


@pytest.fixture(scope="session")
def store() -> Store:
    needs.root("run as root, in a container or virtual machine of its own")
    needs.binary("buildah", REMEDY)
    needs.binary("mmdebstrap", REMEDY)
    return default_store()


@pytest.fixture(scope="session")
def server(store: Store) -> Image:
    return store.build("server")


@pytest.fixture(scope="session")
def init(store: Store) -> Image:
    return store.build("init")
