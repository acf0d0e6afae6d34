"""The Envoy bootstrap of both kinds of node, whole."""

import pytest

from controlplane.bootstrap import Bootstrap, render
from tests.goldens import check_golden

FILES = render(Bootstrap())
FED = render(Bootstrap(control_plane="envoy-sidecar-controlplane.envoy-sidecar-system.svc:15012"))


@pytest.mark.parametrize("name", FILES)
def test_the_default_bootstrap(name: str) -> None:
    check_golden(f"bootstrap/{name.removeprefix('bootstrap-')}", FILES[name])


@pytest.mark.parametrize("name", ["bootstrap-dual.json", "ca.json", "token.json"])
def test_the_bootstrap_that_names_a_control_plane(name: str) -> None:
    check_golden(f"bootstrap/controlplane-{name.removeprefix('bootstrap-')}", FED[name])
