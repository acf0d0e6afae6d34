"""Our server as it runs in a pod, a process of its own with a certificate of its own, and clients for it."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from certs.__main__ import main as certs
from tests.apiserver.processes import NotReadyError, eventually, running, tail

CHECKOUT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
TIMEOUT = 60  # seconds that any client of a test waits at most


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def response(self) -> dict[str, Any]:
        """The response of the AdmissionReview in the body."""
        response: dict[str, Any] = json.loads(self.body)["response"]
        return response


@dataclass(frozen=True, slots=True)
class Server:
    """A running one."""

    process: "subprocess.Popen[bytes]"
    port: int
    metrics_port: int
    certificate: Path
    log: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate / "ca.crt")

    def client(self) -> HTTPSConnection:
        return HTTPSConnection("localhost", self.port, context=self.context(), timeout=TIMEOUT)

    def connect(self) -> ssl.SSLSocket:
        """A connection for bytes that no HTTP client would send."""
        plain = socket.create_connection(("localhost", self.port), timeout=TIMEOUT)
        return self.context().wrap_socket(plain, server_hostname="localhost")

    def post(self, body: bytes | str, path: str = "/inject", headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, JSON if headers is None else headers)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        client = self.client()
        try:
            return exchange(client, method, path, body, headers)
        finally:
            client.close()

    def monitor(self, path: str) -> Answer:
        """GET on the metrics port."""
        client = HTTPConnection("localhost", self.metrics_port, timeout=TIMEOUT)
        try:
            return exchange(client, "GET", path)
        finally:
            client.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        families = text_string_to_metric_families(self.monitor("/metrics").body.decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def cpu_seconds(self) -> float:
        """User and system time so far, by the server's own count."""
        return self.metric("process_cpu_seconds_total")

    def resident(self) -> int:
        """Bytes of memory in use (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def exchange(
    client: HTTPConnection, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    client.request(method, path, body, headers or {})
    return read(client.getresponse())


def read(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def receive(connection: ssl.SSLSocket) -> Answer:
    """The next answer on a raw connection."""
    response = HTTPResponse(connection)
    response.begin()
    return read(response)


@contextmanager
def serving(directory: Path, settings: str = "", *options: str, python: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server with these settings (YAML); stops at once when asked to, unless they say otherwise."""
    directory.mkdir(exist_ok=True)
    file, log = directory / "settings.yaml", directory / "log"
    file.write_text(settings or "server: {shutdownGraceSeconds: 0}\n")
    if not (directory / "tls").exists():
        assert certs(["dev", str(directory / "tls")]) == 0
    command = [sys.executable, *python, "-m", "webhook", "serve", "--settings", str(file)]
    command += ["--tls-dir", str(directory / "tls"), "--port", "0", "--metrics-port", "0", *options]
    with running(command, log, cwd=CHECKOUT) as process:
        ports = eventually(lambda: _ports(process, log), f"the webhook serves, see {log}")
        yield Server(process, *ports, directory / "tls", log)


def _ports(process: "subprocess.Popen[bytes]", log: Path) -> tuple[int, int] | None:
    if process.poll() is not None:
        raise NotReadyError(f"the webhook ended with {process.returncode}:\n{tail(log)}")
    for line in log.read_text().splitlines():
        if '"serving"' in line:
            event = json.loads(line)
            return event["port"], event["metrics_port"]
    return None


def run(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """`python -m webhook serve` that is expected to end by itself."""
    command = [sys.executable, "-m", "webhook", "serve", *arguments]
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=os.environ | (environment or {}),
    )


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it; a byte is sent to find out."""
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
