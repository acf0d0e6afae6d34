"""One control plane and one installation per session, a fresh namespace per test."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.apiserver import binaries, control_plane, injector
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import Injector
from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_IN, namespace, service_account

REPLICAS = 2


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and logs of the session."""
    return tmp_path_factory.mktemp("kubernetes")


@pytest.fixture(scope="session")
def kubernetes(pytestconfig: pytest.Config, directory: Path) -> Iterator[Cluster]:
    """etcd and kube-apiserver, ready."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # a build of minutes must be seen
        for program in ("kube-apiserver", "kubectl"):
            binaries.kubernetes(program)
    with control_plane.started(directory, control_plane.REINVOKING) as running:
        yield running


@pytest.fixture(scope="session")
def webhook(kubernetes: Cluster, directory: Path) -> Iterator[Injector]:
    """Our processes, with the settings of `manifests/base`."""
    base = injector.manifests(kubernetes, directory)
    with injector.injecting(directory / "base", injector.settings(base), REPLICAS) as running:
        yield running


@pytest.fixture(scope="session")
def installation(kubernetes: Cluster, webhook: Injector, directory: Path) -> Installation:
    """`manifests/base`, applied and in effect."""
    installed = Installation(kubernetes, webhook, directory)
    installed.install()
    return installed


@pytest.fixture(scope="session")
def new_namespace(kubernetes: Cluster) -> Callable[..., str]:
    """Makes a namespace of its own name, with these labels, ready for pods."""
    numbers = itertools.count(1)

    def make(labels: Mapping[str, str] = OPT_IN) -> str:
        name = f"shop-{next(numbers)}"
        kubernetes.kubectl("create", "-f", "-", stdin=[namespace(name, labels), service_account(name)])
        return name

    return make


@pytest.fixture
def bootstrap() -> Callable[[str], Object]:
    """The ConfigMap that `python -m controlplane bootstrap` prints for a namespace, by the settings of base."""

    def printed(namespace: str) -> Object:
        command = [sys.executable, "-m", "controlplane", "bootstrap", "--namespace", namespace]
        command += ["--settings", str(injector.SETTINGS)]
        done = subprocess.run(command, cwd=injector.CHECKOUT, capture_output=True, check=True)
        config_map: Object = yaml.safe_load(done.stdout)
        return config_map

    return printed


@pytest.fixture
def shop(installation: Installation, new_namespace: Callable[..., str]) -> str:
    """A fresh namespace that opted in."""
    return new_namespace()
