"""What monitors and probes ask of the process, over plain HTTP, and what people ask of it over loopback.

Whoever reaches the port gets a few threads for a few seconds: a kubelet that finds none would restart the process.
"""

import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from time import monotonic
from typing import Any, Protocol
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

AT_A_TIME, OF_ONE_ADDRESS = 64, 8  # connections; a monitor and a kubelet have one each
SECONDS = 10.0  # for a connection, whatever it sends and however slowly

Page = tuple[int, bytes, str]  # status, body, content type
Debug = Callable[[str, str], Page | None]  # a method and a path below /debug/; None: no such page


class Health(Protocol):
    """What probes ask of a part of the process."""

    @property
    def healthy(self) -> bool:
        """Whether it still works, whether or not it succeeds."""

    @property
    def ready(self) -> bool:
        """Whether it does what it is for."""


def monitoring(
    address: str,
    port: int,
    parts: Sequence[Health],
    registry: CollectorRegistry,
    debug: Debug = lambda _method, _path: None,
    names: Callable[[], bytes] = bytes,
) -> ThreadingHTTPServer:
    """The server of /metrics, /healthz and /readyz, listening, to be served in a thread. Raises OSError.

    `names` has which address is whose, on a page of its own: it may hold thousands of series, and seldom changes.
    What `debug` has is for callers on loopback only: whoever may exec into the pod, or forward a port.
    """

    def ok(good: bool) -> Page:
        return (200, b"ok", "text/plain") if good else (503, b"not now", "text/plain")

    pages: dict[str, Callable[[], Page]] = {
        "/metrics": lambda: (200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4),
        "/metrics/services": lambda: (200, names(), CONTENT_TYPE_PLAIN_0_0_4),
        "/healthz": lambda: ok(all(part.healthy for part in parts)),
        "/readyz": lambda: ok(all(part.ready for part in parts)),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds that a client may be silent

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self._answer(page() if page else self._debug("GET"))

        def do_POST(self) -> None:
            self._answer(self._debug("POST"))

        def _debug(self, method: str) -> Page:
            found = debug(method, self.path) if self._is_for_people() else None
            return found or (404, b"no such page", "text/plain")

        def _is_for_people(self) -> bool:
            """On loopback; and not from a page in the browser of somebody who forwards the port."""
            is_named = _names_loopback(self.headers.get("Host", ""))
            return _is_loopback(self.client_address[0]) and is_named and "Origin" not in self.headers

        def _answer(self, page: Page) -> None:
            status, body, content_type = page
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads who asked."""

    class Server(Bounded):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    return Server((address, port), Handler)


class Bounded(ThreadingHTTPServer):
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


def _names_loopback(host: str) -> bool:
    """By the Host of a request, with its port."""
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or _is_loopback(name)
    return False


def _is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
