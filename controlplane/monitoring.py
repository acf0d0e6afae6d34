"""What monitors and probes ask of the process, over plain HTTP, and what people ask of it over loopback."""

import socket
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4


class Health(Protocol):
    """What probes ask of a part of the process."""

    @property
    def healthy(self) -> bool:
        """Whether it still works, whether or not it succeeds."""

    @property
    def ready(self) -> bool:
        """Whether it does what it is for."""


Page = tuple[int, bytes, str]  # status, body, content type
Debug = Callable[[str, str], Page | None]  # a method and a path below /debug/; None: no such page


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
        timeout = 5

        def do_GET(self) -> None:
            page = pages.get(self.path)
            self._answer(page() if page else self._debug("GET"))

        def do_POST(self) -> None:
            self._answer(self._debug("POST"))

        def _debug(self, method: str) -> Page:
            found = debug(method, self.path) if _is_loopback(self.client_address[0]) else None
            return found or (404, b"no such page", "text/plain")

        def _answer(self, page: Page) -> None:
            status, body, content_type = page
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads who asked."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    return Server((address, port), Handler)


def _is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
