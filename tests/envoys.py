"""A real Envoy on loopback that a real discovery server tells what to do, and worlds in Envoy's own words."""

import contextlib
import hashlib
import http.client
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import Popen

from controlplane import discovery
from controlplane.extensions import Json, extension
from controlplane.xds import messages
from controlplane.xds.snapshot import Caller, Kind, Resource
from tests import envoy, mounted
from tests.apiserver.processes import eventually, free_port, stop
from tests.tokens import token
from tests.worlds import World

NODE = "web-0.shop"


class Told(World):
    """A Snapshot of resources in JSON: kind -> name -> source."""

    def __init__(self, sources: Mapping[Kind, Mapping[str, Json]]) -> None:
        self.sources = sources
        super().__init__(
            {kind: {name: _version(one) for name, one in named.items()} for kind, named in sources.items()}
        )

    def get(self, kind: Kind, name: str) -> Resource | None:
        source = self.sources.get(kind, {}).get(name)
        return None if source is None else Resource(name, _version(source), messages.encode(kind, source))


def _version(source: Json) -> str:
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:16]


_ADS: Json = {"ads": {}, "resource_api_version": "V3"}


def cluster(name: str, **more: object) -> Json:
    """An EDS cluster; its endpoints are waited for as long as a test may take."""
    eds = {"eds_config": {**_ADS, "initial_fetch_timeout": "60s"}}
    return {"name": name, "type": "EDS", "eds_cluster_config": eds, "connect_timeout": "1s", **more}


def endpoints(name: str, *ports: int) -> Json:
    """On loopback."""
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
    }


def listener(port: int, routes: str = "http") -> Json:
    """On loopback, with these routes from discovery."""
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        rds={"route_config_name": routes, "config_source": _ADS},
        http_filters=[extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": "in", "address": address, "filter_chains": [{"filters": [manager]}]}


def routes(to: str, name: str = "http") -> Json:
    """Everything to one cluster."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": to}}
    return {"name": name, "virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]}


def told(port: int, **clusters: list[int]) -> Told:
    """Clusters with the ports of their endpoints; the first of them is where all requests go."""
    return Told(
        {
            Kind.CLUSTER: {name: cluster(name) for name in clusters},
            Kind.ENDPOINTS: {name: endpoints(name, *ports) for name, ports in clusters.items()},
            Kind.LISTENER: {"in": listener(port)},
            Kind.ROUTES: {"http": routes(next(iter(clusters)))},
        }
    )


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running one: `port` is free for a listener of its own."""

    process: "Popen[bytes]"
    folder: Path
    port: int

    def ask(self) -> str:
        """What a request to `port` is answered; the status, if it is another than 200."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(client):
            client.request("GET", "/")
            answer = client.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else str(answer.status)

    def admin(self, path: str) -> str:
        """A page of the admin interface."""
        client = http.client.HTTPConnection("admin", timeout=5)
        client.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(client):
            client.sock.settimeout(5)
            client.sock.connect(str(self.folder / "admin.sock"))
            client.request("GET", path)
            return client.getresponse().read().decode()

    def counted(self, name: str) -> int:
        """A statistic; 0 if it has not come to be."""
        lines = dict(line.split(": ", 1) for line in self.admin(f"/stats?filter=^{name}$").splitlines() if ": " in line)
        return int(lines.get(name, 0))

    @property
    def log(self) -> str:
        return (self.folder / "envoy.log").read_text()


@contextmanager
def sidecar(port: int, ca: bytes | None, shown: str | None = None, node: str = NODE) -> Iterator[Envoy]:
    """An Envoy that trusts this CA, shows that token, and asks a control plane at that port of loopback.

    None is a ConfigMap that is not there, and need not be.
    """
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:  # short: a socket's path has 108 bytes at most
        folder = Path(name)
        mounted.write(folder / "trust", {} if ca is None else {"ca.crt": ca})
        mounted.write(folder / "token", {"token": (shown or token()).encode()})
        way = discovery.Way("127.0.0.1", port, "localhost", str(folder / "trust"), str(folder / "token"), name)
        for file, content in discovery.secrets(way).items():
            (folder / file).write_text(json.dumps(content))
        (folder / "bootstrap.json").write_text(json.dumps(_bootstrap(way, folder, node)))
        with _running(folder) as process:
            found = Envoy(process, folder, free_port())
            eventually(lambda: (folder / "admin.sock").exists(), f"Envoy is there: {name}/envoy.log")
            yield found


@contextmanager
def _running(folder: Path) -> Iterator["Popen[bytes]"]:
    """Ends with this process, by setpriv: code between fork and exec may hang where gRPC has threads."""
    command = ["setpriv", "--pdeathsig", "KILL", str(envoy.binary()), "-c", "bootstrap.json"]
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = Popen([*command, *options], cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        stop(process)


def _bootstrap(way: discovery.Way, folder: Path, node: str) -> Json:
    return {
        "node": {"id": node, "cluster": "web"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "static_resources": {"clusters": [discovery.cluster(way, dual=False)]},
        "dynamic_resources": discovery.dynamic(),
    }


@contextmanager
def backend(name: str) -> Iterator[int]:
    """An HTTP server that answers its name; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one segment: the second would wait 40 ms for the first one's ACK

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@contextmanager
def asking(envoy: Envoy) -> Iterator[list[str]]:
    """Requests all the while, one after the other; what they are answered."""
    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(envoy.ask())
            except OSError as error:
                answers.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def callers(identity: object) -> Caller:
    return Caller("shop", "web-0")
