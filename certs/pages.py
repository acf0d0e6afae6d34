"""The pages that monitors and probes ask for, over plain HTTP. Whoever reaches the port gets few threads, for seconds:
a kubelet that finds none would restart the process.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from certs.metrics import CONTENT_TYPE

AT_A_TIME, OF_ONE_ADDRESS = 64, 8  # connections; a monitor and a kubelet have one each
SECONDS = 10.0  # for a connection, whatever it sends and however slowly

Pages = Mapping[str, Callable[[], tuple[bool, bytes]]]  # by path: whether all is well, and what there is to read


@contextmanager
def serving(pages: Pages, address: str, port: int) -> Iterator[int]:
    """Serves them in a thread; the port. Raises OSError if it cannot be had."""

    class Handler(_Handler):
        known = pages

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    with Server((address, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True, name="pages").start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds that a client may be silent
    known: Pages

    def do_GET(self) -> None:
        page = self.known.get(self.path.partition("?")[0])
        good, body = page() if page else (False, b"")
        missing = HTTPStatus.SERVICE_UNAVAILABLE if page else HTTPStatus.NOT_FOUND
        self.send_response(HTTPStatus.OK if good else missing)
        self.send_header("Content-Type", CONTENT_TYPE if body else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a scrape is no event."""


class _Server(ThreadingHTTPServer):
    """Ends connections that are too many, or too old."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: Any, handler: Any) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[str, float]] = {}  # whose, and since when

    def process_request(self, request: Any, client_address: Any) -> None:
        """In the thread that accepts."""
        with self._lock:
            same = sum(host == client_address[0] for host, _ in self._open.values())
            crowded = len(self._open) >= AT_A_TIME or same >= OF_ONE_ADDRESS
            if not crowded:
                self._open[request] = client_address[0], monotonic()
        if crowded:
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """In the thread that has served it."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: whoever reads from the socket, or writes, finds that it is over."""
        with self._lock:
            for request, (_, since) in self._open.items():
                if since + SECONDS < monotonic():
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of clients that leave in the middle there is nothing to say."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
