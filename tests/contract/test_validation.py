"""Before the control plane starts, the Envoy of the sidecars looks at what it would publish: the init containers of
its manifest, run here with their own commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import envoy
from tests.contract.rendered import CHECKOUT, CONTROLPLANE, Object, pod_spec, render, settings_file

pytestmark = pytest.mark.envoy


def command(container: Object, folder: Path) -> list[str]:
    """Its command line, with its volumes in `folder`."""
    program = [str(envoy.binary())] if "/envoy:" in container["image"] else [sys.executable, "-m"]
    places = {mount["mountPath"]: str(folder / mount["name"]) for mount in container["volumeMounts"]}
    words = container["args"]
    for path, place in places.items():
        words = [word.replace(path, place) for word in words]
    return [*program, *words]


@pytest.fixture
def steps(tmp_path: Path) -> list[list[str]]:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "settings.yaml").write_text(settings_file(render()))
    return [command(container, tmp_path) for container in pod_spec(render(), CONTROLPLANE)["initContainers"]]


def code(step: list[str]) -> int:
    return subprocess.run(step, cwd=CHECKOUT, capture_output=True, check=False).returncode


def test_the_bootstrap_of_this_release_passes(steps: list[list[str]]) -> None:
    assert {code(step) for step in steps} == {0}


def test_a_bootstrap_that_envoy_refuses_stops_the_control_plane_before_it_starts(
    steps: list[list[str]], tmp_path: Path
) -> None:
    write, *looks = steps
    assert code(write) == 0
    for file in (tmp_path / "bootstrap").iterdir():
        broken = json.loads(file.read_text())
        broken["static_resources"]["clusters"][0]["lb_policy"] = "NOBODY_KNOWS"
        file.write_text(json.dumps(broken))
    assert all(code(look) != 0 for look in looks)
