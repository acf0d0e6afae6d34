"""Before the control plane starts, the Envoy of the sidecars looks at what it would publish: the init containers of
its manifest, run here with their own commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import discovery
from tests import envoy
from tests.contract.rendered import CHECKOUT, CONTROLPLANE, Object, pod_spec, render, settings_file
from webhook.settings import Settings
from webhook.volumes import API_TOKEN_DIRECTORY

pytestmark = pytest.mark.envoy


WRITE, *LOOKS = pod_spec(render(), CONTROLPLANE)["initContainers"]
EACH_LOOK = pytest.mark.parametrize("look", LOOKS, ids=[it["name"] for it in LOOKS])


def places(container: Object, folder: Path) -> dict[str, Path]:
    """Where here what it mounts is, the longest path first."""
    mounts = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
    return {path: mounts[path] for path in sorted(mounts, key=len, reverse=True)}


def moved(text: str, to: dict[str, Path]) -> str:
    for path, place in to.items():
        text = text.replace(path, str(place))
    return text


def code(container: Object, folder: Path) -> int:
    """Of its command, with its volumes in `folder`."""
    program = [str(envoy.binary())] if "/envoy:" in container["image"] else [sys.executable, "-m"]
    words = [moved(word, places(container, folder)) for word in container["args"]]
    done = subprocess.run([*program, *words], cwd=CHECKOUT, capture_output=True, check=False)
    print(done.stderr.decode())
    return done.returncode


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The volumes, once the first of them has run."""
    for container in (WRITE, *LOOKS):
        for place in places(container, tmp_path).values():
            place.mkdir(exist_ok=True)
    (tmp_path / "settings" / "settings.yaml").write_text(settings_file(render()))
    assert code(WRITE, tmp_path) == 0
    return tmp_path


def look_at(container: Object, folder: Path) -> int:
    """Of its command, where also the files name each other by the paths of here."""
    for file in (folder / "bootstrap").iterdir():
        file.write_text(moved(file.read_text(), places(container, folder)))
    return code(container, folder)


@EACH_LOOK
def test_the_bootstrap_of_this_release_passes(look: Object, written: Path) -> None:
    assert look_at(look, written) == 0


@EACH_LOOK
def test_a_bootstrap_that_envoy_refuses_stops_the_control_plane_before_it_starts(look: Object, written: Path) -> None:
    for file in (written / "bootstrap").glob("bootstrap-*.json"):
        broken = json.loads(file.read_text())
        broken["static_resources"]["clusters"][0]["lb_policy"] = "NOBODY_KNOWS"
        file.write_text(json.dumps(broken))
    assert look_at(look, written) != 0


def test_envoy_itself_looks_at_every_bootstrap_before_it_is_published(written: Path) -> None:
    files = {str(file) for file in (written / "bootstrap").glob("bootstrap-*.json")}
    assert {moved(look["args"][-1], places(look, written)) for look in LOOKS} == files
    assert {look["image"] for look in LOOKS} == {Settings().sidecar.image}


def test_it_finds_there_what_it_finds_in_a_pod() -> None:
    """Its files, and the directories that it watches, at the same paths; and nobody's token."""
    expected = {discovery.FILES, discovery.TRUST, discovery.TOKEN, API_TOKEN_DIRECTORY}
    assert [{mount["mountPath"] for mount in look["volumeMounts"]} for look in LOOKS] == [expected] * len(LOOKS)
