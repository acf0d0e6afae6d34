"""The Envoy bootstrap of both kinds of node, whole."""

import pytest

from controlplane.bootstrap import Bootstrap, render
from tests.goldens import check_golden

FILES = render(Bootstrap())


@pytest.mark.parametrize("name", FILES)
def test_the_default_bootstrap(name: str) -> None:
    check_golden(f"bootstrap/{name.removeprefix('bootstrap-')}", FILES[name])
