"""certs: no key reaches a repr, a log line, an exception or an argument list, whatever the API server answers."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from certs import logs
from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from certs.kube import ConflictError, Kube, KubeError, connect
from certs.objects import Installation, Target
from certs.reading import Object
from tests.apiserver.processes import free_port

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
CA = issue_ca("CA", Validity.starting(NOW, timedelta(days=365)))
LEAF = issue_leaf(CA, ["localhost"], Validity.starting(NOW, timedelta(days=30)))
SECRET = next(iter(Installation().leaves))
READ: Object = {"metadata": {"name": SECRET.name, "resourceVersion": "1"}}
OTHER = Target("ConfigMap", "shop", "envoy-sidecar-ca")


@dataclass
class Echo:
    """An API server that answers every request with all of its body in a Status."""

    port: int = 0
    status: int = 422
    bodies: list[bytes] = field(default_factory=list)

    def answer(self, body: bytes) -> bytes:
        self.bodies.append(body)
        return json.dumps({"kind": "Status", "message": f"invalid: {body.decode()}"}).encode()


@contextmanager
def echoing(echo: Echo) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            said = echo.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(echo.status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_PATCH = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        echo.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    with echoing(echo):
        yield echo


def kube(echo: Echo, directory: Path) -> Kube:
    file = directory / "kubeconfig"
    server = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{echo.port}"}}
    context = {"name": "it", "context": {"cluster": "it", "user": ""}}
    file.write_text(yaml.safe_dump({"clusters": [server], "contexts": [context], "current-context": "it", "users": []}))
    return Kube(connect(str(file)), Installation())


def fail(kube: Kube, target: Target = SECRET) -> KubeError:
    with pytest.raises(KubeError) as caught:
        kube.fill(target, READ, {"tls.crt": LEAF.certificate, "tls.key": LEAF.key})
    return caught.value


def lines_of(*bundles: Bundle) -> set[str]:
    """Every line of their keys, and of what the API stores for them."""
    return {line for bundle in bundles for line in bundle.key.decode().splitlines()}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_an_error_says_nothing_that_the_answer_says_of_a_secret(echo: Echo, tmp_path: Path, status: int) -> None:
    echo.status = status
    error = fail(kube(echo, tmp_path))
    assert str(error).startswith(f"PUT {SECRET}: {status} ")
    assert "invalid" not in f"{error} {error!r} {error.args}"
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "forbidden"), (403, "forbidden"), (422, "refused"), (429, "server"), (500, "server")],
)
def test_an_error_has_a_reason_of_a_closed_set(echo: Echo, tmp_path: Path, status: int, reason: str) -> None:
    echo.status = status
    assert fail(kube(echo, tmp_path)).reason == reason


@pytest.mark.parametrize("status", [409, 404])
def test_an_object_that_another_replica_wrote_or_somebody_deleted_is_a_conflict(
    echo: Echo, tmp_path: Path, status: int
) -> None:
    echo.status = status
    assert isinstance(fail(kube(echo, tmp_path)), ConflictError)


def test_of_other_objects_an_error_says_what_is_wrong(echo: Echo, tmp_path: Path) -> None:
    assert "422 Unprocessable" in str(fail(kube(echo, tmp_path), OTHER))
    assert "invalid: " in str(fail(kube(echo, tmp_path), OTHER))


def test_an_object_that_cannot_be_made_because_its_namespace_is_missing_is_no_conflict(
    echo: Echo, tmp_path: Path
) -> None:
    echo.status = 404
    with pytest.raises(KubeError) as caught:
        kube(echo, tmp_path).create(SECRET)
    assert (type(caught.value), caught.value.reason) == (KubeError, "missing")


def test_an_api_server_that_is_not_there_is_unreachable(echo: Echo, tmp_path: Path) -> None:
    echo.port = free_port()
    error = fail(kube(echo, tmp_path))
    assert error.reason == "unreachable"
    assert str(error) == f"PUT {SECRET}: the API server is not reached: Connection refused"


@pytest.mark.parametrize("line_format", ["json", "text"])
def test_no_log_shows_a_key_even_if_everything_is_logged(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str], line_format: str
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.start("json" if line_format == "json" else "text")
    try:
        root.setLevel(logging.DEBUG)
        try:
            kube(echo, tmp_path).fill(SECRET, READ, {"tls.key": LEAF.key})
        except KubeError:
            logs.log.exception("failed")
    finally:
        root.handlers, root.level = handlers, level
    said = capsys.readouterr().out
    assert "KubeError" in said
    assert not any(line in said for line in lines_of(LEAF))
    assert "PRIVATE" not in said
    assert echo.bodies  # it did go over the wire


def test_a_line_of_the_log_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.start("json")
    try:
        logs.tell("step", {"reason": "one\ntwo\x1b[0m\u2028", "long": "x" * 9999})
    finally:
        root.handlers, root.level = handlers, level
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["reason"].startswith("one\ntwo")
    assert len(line) < 1000
    assert line.isascii()


def test_no_command_takes_a_key() -> None:
    for command in ("run", "ensure", "show", "dev"):
        done = subprocess.run(
            [sys.executable, "-m", "certs", command, "--help"], capture_output=True, text=True, check=True
        )
        assert "-key" not in done.stdout.replace("tls.key", "")
