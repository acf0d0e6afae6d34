"""`controlplane serve --from`: the process, with manifests in the place of a cluster."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.apiserver.processes import eventually
from tests.cluster import service, slice_of

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Serving:
    """A process that serves, and where."""

    process: subprocess.Popen[str]
    metrics_port: int
    log: Path

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)) as connection:
            connection.request(method, path)
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"envoy_sidecar_controlplane_{name}")
        )


def say(place: Path, *objects: object) -> None:
    fresh = place.with_suffix(".new")
    fresh.write_text(yaml.safe_dump_all(objects))
    fresh.rename(place)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    place = tmp_path / "cluster.yaml"
    say(place, *(service(f"s{n}") for n in range(20)), *(slice_of(f"s{n}") for n in range(20)))
    return place


@pytest.fixture
def serving(tmp_path: Path, manifests: Path) -> Iterator[Serving]:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "controlplane", "serve", "--from", str(manifests), "--xds-address", "127.0.0.1:0"]
    command += ["--metrics-address", "127.0.0.1", "--metrics-port", "0"]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, cwd=ROOT, text=True) as process:
        line = eventually(lambda: log.read_text().partition("\n")[0], f"a first line in {log}", seconds=30)
        yield Serving(process, int(json.loads(line)["metrics_port"]), log)
        process.kill()


def test_it_is_ready_once_the_manifests_were_read(serving: Serving) -> None:
    eventually(lambda: serving.ask("/readyz")[0] == 200, "ready", seconds=30)
    assert serving.ask("/healthz")[0] == 200


def test_a_signal_ends_it_in_order(serving: Serving) -> None:
    eventually(lambda: serving.ask("/readyz")[0] == 200, "ready", seconds=30)
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(30) == 0
    assert "Traceback" not in serving.log.read_text()


def test_what_is_held_back_is_a_metric_and_goes_at_the_operators_word(serving: Serving, manifests: Path) -> None:
    eventually(lambda: serving.ask("/readyz")[0] == 200, "ready", seconds=30)
    say(manifests)
    eventually(lambda: serving.metric("xds_removal_held_back") == 1, "it is held back", seconds=30)
    assert "removal held back" in serving.log.read_text()
    status, said = serving.ask("/debug/release", "POST")
    assert (status, said[:9]) == (200, "released:")
    eventually(lambda: serving.metric("xds_removal_held_back") == 0, "it went", seconds=30)


def test_what_is_wrong_with_objects_is_a_metric(serving: Serving, manifests: Path) -> None:
    say(manifests, *(service(f"s{n}", annotations={"retries": "x"}) for n in range(20)))
    eventually(lambda: serving.metric("xds_problems") == 20, "it is counted", seconds=30)


@pytest.mark.parametrize(
    ("path", "method"), [("/debug/release", "GET"), ("/debug", "POST"), ("/", "POST"), ("/x", "GET")]
)
def test_there_are_no_other_pages(serving: Serving, path: str, method: str) -> None:
    assert serving.ask(path, method)[0] == 404


def test_beyond_loopback_nothing_is_served_without_tls(manifests: Path) -> None:
    command = [sys.executable, "-m", "controlplane", "serve", "--from", str(manifests), "--xds-address", "0.0.0.0:0"]
    command += ["--metrics-port", "0", "--metrics-address", "127.0.0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 2
    assert "by TLS and for a token only" in done.stderr
