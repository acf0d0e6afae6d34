"""`controlplane serve`: the process, with manifests in the place of a cluster."""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
import yaml
from prometheus_client import CollectorRegistry

from controlplane import monitoring, proxies
from controlplane.apiserver import KubeError, connect
from controlplane.xds.metrics import PREFIX
from controlplane.xds.service import Place
from controlplane.xds.translate import Choices
from controlplane.xds.watch import COLLECTIONS
from tests import mounted
from tests.apiserver.processes import eventually
from tests.cluster import service, slice_of
from tests.faulty import Asked, Faulty, event, page
from tests.faulty import serving as serving_api
from tests.serving import is_closed

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Serving:
    """A process that serves, and where."""

    process: subprocess.Popen[str]
    metrics_port: int
    xds_port: int
    log: Path

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)) as connection:
            connection.request(method, path, headers=headers)
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


@contextmanager
def running(directory: Path, manifests: Path, *options: str) -> Iterator[Serving]:
    log = directory / "log"
    command = [sys.executable, "-m", "controlplane", "serve", "--from", str(manifests), "--xds-address", "127.0.0.1:0"]
    command += ["--metrics-address", "127.0.0.1", "--metrics-port", "0", *options]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, cwd=ROOT, text=True) as process:
        line = json.loads(eventually(lambda: log.read_text().partition("\n")[0], f"a first line in {log}", seconds=30))
        yield Serving(process, int(line["metrics_port"]), int(line["xds_port"]), log)
        process.kill()


@pytest.fixture
def serving(tmp_path: Path, manifests: Path) -> Iterator[Serving]:
    with running(tmp_path, manifests) as here:
        yield here


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
    assert serving.metric("xds_removals_refused_total") == 1
    status, said = serving.ask("/debug/release", "POST")
    assert (status, said[:9]) == (200, "released:")
    eventually(lambda: serving.metric("xds_removal_held_back") == 0, "it went", seconds=30)


def test_what_is_wrong_with_objects_is_a_metric_and_each_is_named_in_the_log_once(
    serving: Serving, manifests: Path
) -> None:
    wrong = [service(f"s{n}", annotations={"retries": "x"}) for n in range(20)]
    say(manifests, *wrong)
    eventually(lambda: serving.metric("xds_problems") == 20, "it is counted", seconds=30)
    say(manifests, *wrong, service("other"))
    eventually(lambda: "other" in serving.ask("/metrics/services")[1], "the change is known", seconds=30)
    named = eventually(lambda: len(found := ignored(serving.log)) >= 20 and found, "all are named")
    assert named == {
        f"Service shop/s{n}": "envoy-sidecar.io/retries: 'x': use a whole number from 0 to 10" for n in range(20)
    }


def ignored(log: Path) -> dict[str, str]:
    """What it says is wrong, and with what. Raises AssertionError if it says so twice."""
    lines = [one for line in log.read_text().splitlines() if (one := json.loads(line))["event"] == "ignored"]
    found = {one["about"]: one["problem"] for one in lines}
    assert len(found) == len(lines)
    return found


def test_how_long_nothing_was_heard_of_a_kind_is_a_metric_and_a_bookmark_ends_it() -> None:
    def watches(asked: Asked) -> Iterator[object]:
        if asked.path == COLLECTIONS["Service"].path:
            told.wait(30)
            yield event("BOOKMARK", "6")
        yield from faulty.quiet()

    def silence(kind: str) -> float:
        found = registry.get_sample_value(f"{PREFIX}_watch_silence_seconds", {"kind": kind})
        assert found is not None
        return found

    told, faulty, registry = threading.Event(), Faulty(lambda _: page([]), watches), CollectorRegistry()
    with serving_api(faulty) as api:
        begun, part = monotonic(), proxies.of_cluster(api, Place(address="127.0.0.1:0"), Choices(), registry)
        part.start()
        try:
            eventually(lambda: min(silence("service"), silence("endpointslice")) >= 0.5, "half a second of silence")
            assert silence("service") <= monotonic() - begun
            told.set()
            eventually(lambda: silence("service") < silence("endpointslice") - 0.4, "of Services something was heard")
        finally:
            part.stop(0)


@pytest.mark.parametrize(
    ("path", "method"), [("/debug/release", "GET"), ("/debug", "POST"), ("/", "POST"), ("/x", "GET")]
)
def test_there_are_no_other_pages(serving: Serving, path: str, method: str) -> None:
    assert serving.ask(path, method)[0] == 404


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": "["}])
def test_a_page_in_the_browser_of_who_forwards_the_port_gives_no_operators_word(
    serving: Serving, headers: dict[str, str]
) -> None:
    assert serving.ask("/debug/release", "POST", **headers)[0] == 404


def test_a_monitor_may_ask_with_parameters(serving: Serving) -> None:
    assert serving.ask("/metrics?x=1")[0] == 200


def test_beyond_loopback_nothing_is_served_without_tls(manifests: Path) -> None:
    command = [sys.executable, "-m", "controlplane", "serve", "--from", str(manifests), "--xds-address", "0.0.0.0:0"]
    command += ["--metrics-port", "0", "--metrics-address", "127.0.0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 2
    assert "by TLS and for a token only" in done.stderr


@pytest.mark.parametrize("text", ["rubbish", "[]", "{", "users: 1", "contexts: [1]", "clusters: {a: 1}"])
def test_a_file_that_is_no_kubeconfig_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(KubeError, match="no credentials"):
        connect(str(file))


def test_manifests_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "controlplane", "serve", "--from", str(tmp_path / "misspelt.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "misspelt.yaml: no such file or folder" in done.stderr) == (2, True)


def test_clients_that_speak_no_tls_and_leave_in_the_middle_fill_no_log(tmp_path: Path, manifests: Path) -> None:
    """A line for each from gRPC's own log, seen: 24,000 in 12 s; and 25 for each that left a page half read."""
    mounted.renew(tmp_path / "tls")
    with running(tmp_path, manifests, "--tls-directory", str(tmp_path / "tls")) as serving:
        eventually(lambda: serving.ask("/readyz")[0] == 200, "ready", seconds=30)
        before = serving.log.read_text()
        for _ in range(50):
            rudely(serving.xds_port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            rudely(serving.metrics_port, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert serving.ask("/metrics")[0] == 200
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(30) == 0
        assert serving.log.read_text() == before


def rudely(port: int, said: bytes) -> None:
    """Says that, and resets the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(said)


def test_who_holds_pages_open_keeps_no_probe_from_its_answer(serving: Serving) -> None:
    eventually(lambda: serving.ask("/readyz")[0] == 200, "ready", seconds=30)
    with ExitStack() as stack:
        for _ in range(300):
            hold(stack, serving.metrics_port)
        assert threads(serving) < 50
        assert ask_from("127.0.0.2", serving.metrics_port, "/healthz") == 200


def test_who_sends_a_byte_now_and_then_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "SECONDS", 0.5)
    server = monitoring.monitoring("127.0.0.1", 0, [], CollectorRegistry())
    threading.Thread(target=server.serve_forever).start()
    try:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=0.2) as slow:
            eventually(lambda: is_closed(slow), "it was closed", seconds=10)
    finally:
        server.shutdown()
        server.server_close()


def hold(stack: ExitStack, port: int) -> None:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
    with suppress(OSError):
        connection.sendall(b"GET /metrics")


def threads(serving: Serving) -> int:
    return len(list(Path(f"/proc/{serving.process.pid}/task").iterdir()))


def ask_from(address: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status
