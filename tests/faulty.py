"""An API server with the faults that a test chooses: what a real one, or what stands before it, does not do on demand.

Of each kind it has a list and watches. A watch is a generator of lines; it may end, raise Cut, or wait.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from controlplane.extensions import Json
from controlplane.kube import Kube

Query = dict[str, str]


class Cut(Exception):
    """The connection ends in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: of which path, when, and for what."""

    path: str
    query: Query
    at: float = field(default_factory=monotonic)

    @property
    def is_watch(self) -> bool:
        return "watch" in self.query


@dataclass
class Faulty:
    """`lists` and `watches` answer each request, by its path and its query. A status is answered without a body."""

    lists: Callable[[Asked], Json | bytes | int]
    watches: Callable[[Asked], Iterator[object]]
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)  # what waits may end

    def watched(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.is_watch and one.path == path]

    def listed(self, path: str) -> list[Asked]:
        return [one for one in self.asked if not one.is_watch and one.path == path]

    def quiet(self) -> Iterator[object]:
        """A watch that has nothing to tell."""
        self.over.wait()
        yield from ()


def page(objects: Sequence[Json], version: str = "5", following: str = "") -> Json:
    return {"metadata": {"resourceVersion": version, "continue": following}, "items": list(objects)}


def event(told: str, version: str, found: Json | None = None) -> Json:
    whole = found or {"metadata": {}}
    return {"type": told, "object": {**whole, "metadata": {**whole["metadata"], "resourceVersion": version}}}


def status(code: int) -> Json:
    """An error within a watch."""
    return {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "said by a test"}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Of clients that leave there is nothing to say."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(faulty: Faulty) -> Iterator[Kube]:
    """A client of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = Asked(parts.path, dict(parse_qsl(parts.query)))
            faulty.asked.append(asked)
            with suppress(OSError):
                if asked.is_watch:
                    self._stream(faulty.watches(asked))
                else:
                    self._answer(faulty.lists(asked))

        def _answer(self, found: Json | bytes | int) -> None:
            body = found if isinstance(found, bytes) else b"" if isinstance(found, int) else json.dumps(found).encode()
            self.send_response(found if isinstance(found, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, lines: Iterator[object]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for line in lines:
                    text = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                self.wfile.write(b"0\r\n\r\n")
            except Cut:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """What was asked is in `asked`."""

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    configuration = Configuration()
    configuration.host, configuration.retries = f"http://127.0.0.1:{server.server_address[1]}", 1
    client = ApiClient(configuration)
    try:
        yield Kube(client)
    finally:
        faulty.over.set()
        client.rest_client.pool_manager.clear()  # what is kept alive keeps a thread of the server's
        server.shutdown()
        thread.join()
        server.server_close()
