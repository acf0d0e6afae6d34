"""One control plane per session, a fresh namespace per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver import binaries, cluster
from tests.apiserver.cluster import Cluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is of this tier, and shares one control plane: one worker runs it all."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.apiserver)
            item.add_marker(pytest.mark.xdist_group("apiserver"))


@pytest.fixture(scope="session")
def kubernetes(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd and kube-apiserver, ready."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # a build of minutes must be seen
        for program in ("kube-apiserver", "kubectl"):
            binaries.kubernetes(program)
    with cluster.started(tmp_path_factory.mktemp("kubernetes")) as running:
        yield running
