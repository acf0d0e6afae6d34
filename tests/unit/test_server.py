"""The process: how it starts, what it needs, what it survives, how it ends."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from certs.__main__ import main as certs
from tests import build, needs
from tests.apiserver.processes import eventually
from tests.serving import CHECKOUT, JSON, Server, exchange, receive, run, serving
from webhook.server import LAST_CALL_SECONDS
from webhook.settings import Settings

REVIEW = json.dumps(build.review())
HEAD = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(REVIEW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    assert certs(["dev", str(tmp_path / "tls")]) == 0
    return tmp_path / "tls"


def end(server: Server, seconds: float = 60) -> int:
    return server.process.wait(seconds)


def served_serial(server: Server) -> str:
    """Which certificate a new client gets."""
    context = ssl.create_default_context(cafile=server.certificate / "ca.crt")
    with (
        socket.create_connection(("localhost", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


# Start


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_both_ports_answer_probes(server: Server, path: str) -> None:
    assert server.request("GET", path).status == 200
    assert server.monitor(path).status == 200


def test_metrics_are_not_on_the_port_of_admissions(server: Server) -> None:
    assert server.request("GET", "/metrics").status == 404


def test_admissions_are_not_on_the_port_of_metrics(server: Server) -> None:
    assert server.monitor("/inject").status == 404


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_families_are_served(server: Server, address: str) -> None:
    if address == "::1" and not socket.has_dualstack_ipv6():
        needs.missing("IPv6", "boot without ipv6.disable=1")
    plain = socket.create_connection((address, server.port))
    with server.context().wrap_socket(plain, server_hostname=address) as connection:
        connection.sendall(HEAD + REVIEW.encode())
        assert receive(connection).status == 200


def test_an_address_of_one_family_is_served(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {address: 127.0.0.1, shutdownGraceSeconds: 0}") as server:
        assert server.post(REVIEW).status == 200


def test_as_many_connections_are_allowed_as_the_machine_permits(server: Server) -> None:
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    found = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits)
    assert found is not None
    assert found[1] == found[2]


def test_the_serving_process_never_loads_what_it_does_not_need(tmp_path: Path) -> None:
    """`kubernetes` alone would take 60 MB and a second."""
    with serving(tmp_path, python=("-X", "importtime")) as server:
        assert server.post(REVIEW).status == 200
        assert server.post(REVIEW, "/advise").status == 200
        assert server.monitor("/metrics").status == 200
        loaded = set(re.findall(r"import time:.*\| +([\w.]+)$", server.log.read_text(), re.MULTILINE))
    assert "fastapi" in loaded
    unwanted = {"kubernetes", "jsonpatch", "cryptography", "h11", "httpx", "grpc", "webhook.offline", "webhook.explain"}
    assert not loaded & unwanted


def test_an_idle_server_fits_into_65_mb(server: Server) -> None:
    assert server.resident() < 65 << 20


def refused(tmp_path: Path, *options: str, settings: str = "{}") -> str:
    """What is said on standard error by a start that fails before anything is served."""
    (tmp_path / "settings.yaml").write_text(settings)
    ended = run("--settings", str(tmp_path / "settings.yaml"), *options)
    assert ended.returncode == 2, ended
    assert "serving" not in ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_missing_certificate_is_named_and_ends_with_code_2(tmp_path: Path) -> None:
    said = refused(tmp_path, "--tls-dir", str(tmp_path / "nowhere"), "--port", "0", "--metrics-port", "0")
    assert str(tmp_path / "nowhere") in said


def test_a_key_of_another_certificate_ends_with_code_2(tmp_path: Path, tls: Path) -> None:
    assert certs(["dev", str(tmp_path / "other")]) == 0
    shutil.copy(tmp_path / "other" / "tls.key", tls / "tls.key")
    said = refused(tmp_path, "--tls-dir", str(tls), "--port", "0", "--metrics-port", "0")
    assert "no matching pair" in said


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_named_and_ends_with_code_2(tmp_path: Path, tls: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ports = {"--port": "0", "--metrics-port": "0"} | {option: port}
        options = [word for pair in ports.items() for word in pair]
        said = refused(tmp_path, "--tls-dir", str(tls), "--address", "127.0.0.1", *options)
    assert f"port {port}" in said
    assert "in use" in said


def test_an_address_that_the_machine_does_not_have_ends_with_code_2(tmp_path: Path, tls: Path) -> None:
    assert "192.0.2.1" in refused(tmp_path, "--tls-dir", str(tls), "--address", "192.0.2.1", "--port", "0")


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_a_port_that_is_none_ends_with_code_2(tmp_path: Path, port: str) -> None:
    assert f"'{port}'" in refused(tmp_path, f"--port={port}")


def test_an_address_that_is_none_ends_with_code_2(tmp_path: Path, tls: Path) -> None:
    assert "'webhook.local'" in refused(tmp_path, "--tls-dir", str(tls), "--address", "webhook.local", "--port", "0")


def test_every_problem_in_the_settings_is_told_before_anything_else(tmp_path: Path) -> None:
    said = refused(tmp_path, "--tls-dir", "/nowhere", settings="server: {port: 70000}\nsidecar: {mode: both}\n")
    assert "server.port" in said
    assert "sidecar.mode" in said
    assert "/nowhere" not in said


def test_the_example_in_the_help_serves(tmp_path: Path, tls: Path) -> None:
    example = run("--help").stdout.partition("example:")[2].partition("exit codes")[0]
    options = re.findall(r"(--[\w-]+)", example)
    values = {"--settings": "settings.yaml", "--tls-dir": str(tls), "--port": "0", "--metrics-port": "0"}
    assert sorted(options) == sorted(values)
    with serving(tmp_path) as server:  # starts with exactly these options
        assert server.request("GET", "/readyz").status == 200


# Certificates


def test_a_changed_certificate_is_served_within_seconds_without_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as server, closing(server.client()) as kept:
        former = served_serial(server)
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
        assert certs(["dev", str(server.certificate)]) == 0
        eventually(lambda: server.events("certificate reloaded"), "the reload is logged")
        assert served_serial(server) != former
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
        assert server.metric("envoy_sidecar_webhook_certificate_reloads_total", result="success") >= 1


def test_a_broken_certificate_is_counted_and_logged_and_the_former_one_served(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        former = served_serial(server)
        (server.certificate / "tls.key").write_text("nonsense")
        (event,) = eventually(lambda: server.events("certificate refused"), "it is logged")
        assert "no matching pair" in event["problem"]
        assert server.metric("envoy_sidecar_webhook_certificate_reloads_total", result="failure") == 1
        assert served_serial(server) == former
        assert server.request("GET", "/readyz").status == 200


def test_a_metric_says_as_long_as_it_lasts_that_the_files_cannot_be_served(tmp_path: Path) -> None:
    successful = "envoy_sidecar_webhook_certificate_last_reload_successful"
    with serving(tmp_path) as server:
        assert server.metric(successful) == 1
        (server.certificate / "tls.key").write_text("nonsense")
        eventually(lambda: server.metric(successful) == 0, "it says so")
        assert certs(["dev", str(server.certificate)]) == 0
        eventually(lambda: server.metric(successful) == 1, "it no longer does")


def test_the_end_of_the_certificate_is_a_metric(server: Server) -> None:
    year = 365 * 24 * 3600
    start = Path(server.certificate / "tls.crt").stat().st_mtime
    assert server.metric("envoy_sidecar_webhook_certificate_expiry_timestamp_seconds") == pytest.approx(
        start + year, abs=60
    )


# Connections


def test_a_connection_is_kept_longer_than_the_api_server_keeps_it() -> None:
    assert Settings().server.keep_alive_seconds > 90


def test_a_connection_is_kept_as_long_as_the_settings_say(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "server: {keepAliveSeconds: 1, shutdownGraceSeconds: 0}") as server,
        server.connect() as used,
    ):
        used.sendall(HEAD + REVIEW.encode())
        assert receive(used).status == 200
        with server.connect() as unused:
            assert used.recv(1) == b""
            assert unused.recv(1) == b""


def test_nobody_who_stops_reading_our_log_stops_an_admission(tmp_path: Path, tls: Path) -> None:
    """A pipe holds 64 KiB: 300 lines. The next ones are dropped and counted."""
    command = [sys.executable, "-m", "webhook", "serve", "--tls-dir", str(tls), "--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        server = Server(process, event["port"], event["metrics_port"], tls, tmp_path)
        client = server.client()
        try:
            for _ in range(600):
                assert exchange(client, "POST", "/inject", REVIEW, JSON).status == 200
            assert server.metric("envoy_sidecar_webhook_log_lines_dropped_total") > 0
        finally:
            client.close()
            process.kill()


# The bootstrap


def test_a_server_is_ready_once_its_bootstrap_is_published(tmp_path: Path) -> None:
    published = tmp_path / "hashes"
    with (
        serving(tmp_path, f"server: {{publishedFile: {published}, shutdownGraceSeconds: 0}}") as server,
        closing(server.client()) as client,
    ):
        assert exchange(client, "GET", "/readyz").status == 503
        published.write_text(f"ffffffffff\n{Settings().bootstrap_hash}\n")
        eventually(lambda: exchange(client, "GET", "/readyz").status == 200, "it is ready")
        published.write_text("")
        assert exchange(client, "GET", "/readyz").status == 200


# The end


def test_sigterm_ends_an_idle_server_with_code_0(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.process.terminate()
        assert end(server) == 0
        assert server.events("stopped")


def test_a_stopping_server_is_unready_and_answers_until_no_endpoint_points_to_it(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {shutdownGraceSeconds: 3}") as server, closing(server.client()) as kept:
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.request("GET", "/readyz").status == 503, "it is unready")
        assert server.monitor("/readyz").status == 503
        assert server.monitor("/healthz").status == 200
        assert server.post(REVIEW).status == 200, "new connections are served"
        answer = exchange(kept, "POST", "/inject", REVIEW, JSON)
        assert (answer.status, answer.headers["connection"]) == (200, "close"), "and kept ones, for the last time"
        assert end(server) == 0


def test_a_connection_in_use_is_closed_by_an_answer(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {shutdownGraceSeconds: 1}") as server, closing(server.client()) as client:
        server.process.send_signal(signal.SIGTERM)
        eventually(
            lambda: exchange(client, "POST", "/inject", REVIEW, JSON).headers.get("connection") == "close",
            "an answer closes the connection",
        )
        assert end(server) == 0


def test_a_request_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as connection:
        connection.sendall(HEAD + REVIEW[:100].encode())
        eventually(lambda: server.metric("envoy_sidecar_webhook_admissions_in_flight") == 1, "it is in flight")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(server.port), "it no longer listens")
        connection.sendall(REVIEW[100:].encode())
        answer = receive(connection)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert end(server) == 0


def test_who_was_accepted_before_the_end_is_answered_though_his_request_comes_after_nobody_else_is(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, "server: {shutdownGraceSeconds: 0}") as server, server.connect() as connection:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(server.port), "it no longer listens")
        connection.sendall(HEAD + REVIEW.encode())
        answer = receive(connection)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert end(server) == 0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port)).close()
    except OSError:
        return False
    return True


def test_idle_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect(), server.connect():
        server.process.terminate()
        assert end(server, 10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, "server: {shutdownGraceSeconds: 60}") as server:
        server.process.send_signal(number)
        eventually(lambda: server.events("stopping"), "it is stopping")
        server.process.send_signal(number)
        assert end(server, 20) == 128 + number


def test_the_whole_end_fits_into_a_pods_grace_period() -> None:
    server = Settings().server
    assert server.shutdown_grace_seconds + LAST_CALL_SECONDS + server.drain_seconds < 30
