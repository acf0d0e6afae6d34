"""One control plane and one installation per session, a fresh namespace per test."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.apiserver import binaries, control_plane, injector
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import Injector
from tests.apiserver.installation import Installation, identity
from tests.apiserver.objects import OPT_IN, namespace, service_account
from tests.apiserver.processes import free_port

HERE = Path(__file__).parent
REPLICAS = 2
REPORT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is of this tier, and shares one control plane: one worker runs it all."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.apiserver)
            item.add_marker(pytest.mark.xdist_group("apiserver"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints what tests measured."""
    if lines := config.stash.get(REPORT, []):
        terminalreporter.section("measured against the real API server")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Adds a line to what is printed at the end."""
    return pytestconfig.stash.setdefault(REPORT, []).append


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
    with control_plane.started(directory) as running:
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
    installed = Installation(kubernetes, directory)
    installed.prepare()
    installed.apply(installed.manifests(), webhook.port, webhook.certificate)
    installed.settle()
    return installed


@pytest.fixture
def overlay(installation: Installation, webhook: Injector, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """For one test: `manifests/base` with components, `down` with nobody behind the address.

    It does not wait until the API server acts on it: what to ask for is the test's own.
    """
    base, applied = installation.manifests(), list[Object]()
    with ExitStack() as stack:

        def apply(*components: str, down: bool = False) -> None:
            objects = installation.manifests(components)
            applied.extend(objects)
            if down:
                installation.apply(objects, free_port(), webhook.certificate)
                return
            alone = injector.injecting(tmp_path / "-".join(components), injector.settings(objects), replicas=1)
            up = stack.enter_context(alone)
            installation.apply(objects, up.port, up.certificate)

        yield apply
        installation.apply(base, webhook.port, webhook.certificate)
        installation.remove([one for one in applied if identity(one) not in map(identity, base)])
        installation.settle()


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def new_namespace(kubernetes: Cluster, numbers: Iterator[int]) -> Callable[..., str]:
    """Makes a namespace of its own name, with these labels, ready for pods."""

    def make(labels: Mapping[str, str] = OPT_IN) -> str:
        name = f"shop-{next(numbers)}"
        # Applied, not created: where the controller-manager runs, it may be first with the account.
        kubernetes.kubectl("apply", "-f", "-", stdin=[namespace(name, labels), service_account(name)])
        return name

    return make


@pytest.fixture
def bootstrap() -> Callable[[str], Object]:
    """The ConfigMap that `python -m controlplane bootstrap` prints for a namespace."""

    def printed(namespace: str) -> Object:
        command = [sys.executable, "-m", "controlplane", "bootstrap", "--namespace", namespace]
        done = subprocess.run(command, cwd=injector.CHECKOUT, capture_output=True, check=True)
        config_map: Object = yaml.safe_load(done.stdout)
        return config_map

    return printed


@pytest.fixture
def shop(installation: Installation, new_namespace: Callable[..., str]) -> str:
    """A fresh namespace that opted in."""
    return new_namespace()
