"""Discovery as a part of the process: the server in a thread with an event loop of its own, and what others may ask.

Worlds come from other threads. Only the newest waits to be taken over, which happens in the loop: what a snapshot is
made of is never touched by two threads. One that cannot be taken over is counted and told, and the last good one stays.
"""

import asyncio
import gc
import json
import logging
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

import uvloop

from controlplane.logs import tell, tell_crash
from controlplane.xds.authenticator import KNOWN, NEW, Authenticator
from controlplane.xds.credentials import Credentials, CredentialsError
from controlplane.xds.identity import Review
from controlplane.xds.metrics import Metrics
from controlplane.xds.server import Callers, Server
from controlplane.xds.snapshot import Snapshot
from controlplane.xds.transport import Limits

STUCK_SECONDS = 30.0  # without a turn of the loop, after which the process is better restarted
FILES = 20_000  # open at a time, of which each proxy takes one
# Python's defaults look at all that thousands of streams hold several times a push: a quarter of the CPU. While 5,000
# are told, some 100,000 objects more are there, which is no reason to look at them either.
COLLECTIONS = (250_000, 20, 20)

Make = Callable[[Snapshot | None], tuple[Snapshot, Callers]]  # the former snapshot -> the next, and who is who in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where proxies are served. `tls` is a directory with a certificate and its key; without it, on loopback only."""

    address: str
    tls: Path | None = None
    review: Review | None = None
    limits: Limits = field(default_factory=Limits)


class Discovery:
    """One replica's. Any thread may call its methods; `start` first."""

    def __init__(self, place: Place, metrics: Metrics) -> None:
        self._place, self._metrics = place, metrics
        self._loop: asyncio.AbstractEventLoop
        self._executor = ThreadPoolExecutor(NEW + KNOWN, "review")
        self._lock, self._adopting = threading.Lock(), asyncio.Lock()
        self._make: Make | None = None
        self._turned = monotonic()
        self._serving = self._stopping = False
        self._server: Server | None = None
        self.port = 0

    def start(self) -> None:
        """Takes the port. Nobody is served before the first world. Raises OSError, ValueError and CredentialsError."""
        _raise_limit()
        gc.set_threshold(*COLLECTIONS)
        credentials = None if self._place.tls is None else Credentials(self._place.tls, self._reloaded)
        if credentials is not None:
            self._reloaded(None, credentials)
        self._loop = uvloop.new_event_loop()  # spares a push a seventh of its CPU
        self._thread = threading.Thread(target=self._loop.run_forever, name="discovery", daemon=True)
        self._thread.start()
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._bind(credentials), self._loop).result()
        except (OSError, ValueError):
            self._end()
            raise
        self._loop.call_soon_threadsafe(self._turn)

    def publish(self, make: Make) -> None:
        """There is another world: `make` is called in the loop, unless a newer one comes first."""
        with self._lock:
            waiting, self._make = self._make is not None, make
        if not waiting:
            asyncio.run_coroutine_threadsafe(self._adopt(), self._loop)

    def stop(self, seconds: float) -> None:
        """Ends all streams within these seconds, and then the thread."""
        if self._stopping:
            return
        self._stopping = True
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(seconds), self._loop).result()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether proxies are served."""
        return self._serving and not self._stopping

    @property
    def healthy(self) -> bool:
        """Whether the loop still turns."""
        return monotonic() - self._turned < STUCK_SECONDS

    def debug(self, path: str) -> str | None:
        """JSON for a person: of `/debug/proxies`, and `/debug/proxies/NAMESPACE/POD`; None: no such page."""
        return asyncio.run_coroutine_threadsafe(self._debug(path), self._loop).result(STUCK_SECONDS)

    # In the loop

    async def _bind(self, credentials: Credentials | None) -> int:
        review = self._place.review
        authenticator = None if review is None else Authenticator(review, self._executor, time)
        self._server = Server(self._metrics, authenticator, self._place.limits)
        return await self._server.bind(self._place.address, credentials)

    async def _adopt(self) -> None:
        async with self._adopting:
            with self._lock:
                make, self._make = self._make, None
            if make is not None:
                await self._take_over(make)

    async def _take_over(self, make: Make) -> None:
        assert self._server is not None
        try:
            snapshot, callers = make(self._server.cache.snapshot)
            await self._server.follow(snapshot)
            self._server.adopt(snapshot, callers)
        except Exception as error:  # a bug of ours, or an object that nobody foresaw, must not end what works
            self._metrics.failures.inc()
            tell_crash("world not taken over", problem=repr(error)[:300])
            return
        if not self._serving and not self._stopping:
            self._serving = True
            await self._server.start()

    async def _debug(self, path: str) -> str | None:
        assert self._server is not None
        match path.strip("/").split("/"):
            case ["debug", "proxies"]:
                return json.dumps(self._server.debug(), indent=1)
            case ["debug", "proxies", namespace, pod]:
                return json.dumps(self._server.debug_proxy(namespace, pod), indent=1)
            case _:
                return None

    def _turn(self) -> None:
        self._turned = monotonic()
        self._loop.call_later(1.0, self._turn)

    # In gRPC's thread

    def _reloaded(self, problem: CredentialsError | None, credentials: Credentials) -> None:
        self._metrics.certificate_current.set(problem is None)
        if problem is None:
            self._metrics.certificate_expiry.set(credentials.not_after.timestamp())
        else:
            tell("certificate not reloaded", logging.ERROR, problem=str(problem)[:300])


def _raise_limit() -> None:
    """As many open files as the system allows, for there is one for each proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < FILES:
        text = "few open files: proxies beyond the limit are not served"
        tell(text, logging.WARNING, limit=hard, was=soft, wanted=FILES)
