"""The process: sockets, TLS, signals, the watch over the certificate, the end.

Everything that can be wrong is told before the first socket listens, with exit code 2. After SIGTERM the replica is
unready and serves as before until no endpoint points to it; then it closes each connection with its next answer.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from logging import getLogger
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from webhook import app, logs
from webhook.app import State
from webhook.choices import check_leash
from webhook.connection import Connection, Strangers, cut_off_overdue
from webhook.errors import CertificateError, SettingsError
from webhook.listener import Limits, Listener, Open
from webhook.metrics import Metrics
from webhook.settings import Server, Settings, load
from webhook.tls import Certificate, names

BACKLOG = 1024  # connections that wait for their handshake: a rollout opens many at once
MONITORING = Limits(connections=64, handshakes=64, handshake_seconds=1)  # Prometheus and the kubelet
RESERVED = 256  # descriptors that are not for connections of admissions
LOOK_SECONDS = 1  # between two looks at the certificate's files and at slow clients
LAST_CALL_SECONDS = 3  # in which who was accepted may still send a request
NAMES_WITHOUT_CA = "server.clientNames: need a server.clientCaFile or --client-ca; without it nobody's name is known"
OK, UNUSABLE = 0, 2  # exit codes

_LOG = getLogger("webhook")


def run_serve(file: Path | None, options: Mapping[str, Any]) -> int:
    """Serves with the settings in `file`, whose `server` section `options` amend, until SIGTERM or SIGINT.

    Returns the exit code. A second signal ends the process at once.
    """
    try:
        settings = check_leash(load(file), str(file)) if file else Settings()
        settings = replace(settings, server=_check_clients(replace(settings.server, **options), str(file)))
    except SettingsError as error:
        print(f"webhook: {error}", file=sys.stderr)
        return UNUSABLE
    return _run(settings)


def _check_clients(own: Server, source: str) -> Server:
    """The same; here, and not in the file alone, since the CA may be an option of the command."""
    if own.client_names and not own.client_ca_file:
        raise SettingsError(source, [NAMES_WITHOUT_CA])
    return own


def _run(settings: Settings) -> int:
    own, counted = settings.server, Metrics(settings.hash)
    logs.start(own.log_format, own.log_level, counted.log_lines_dropped.inc)
    try:
        authority = Path(own.client_ca_file) if own.client_ca_file else None
        certificate = Certificate(Path(own.tls_directory), authority)
        sockets = [_bind(own.address, port) for port in (own.port, own.metrics_port)]
    except (CertificateError, OSError, ValueError) as error:
        print(f"webhook: {error}", file=sys.stderr)
        return UNUSABLE
    uvloop.run(_Process(settings, counted, certificate).serve(*sockets))
    return OK


def _bind(address: str, port: int) -> socket.socket:
    """A socket on this address; on `::`, of both families, or of IPv4 alone where the node has no IPv6.

    Raises OSError or ValueError, naming what is wrong.
    """
    ip_address(address)
    if address == "::" and not socket.has_dualstack_ipv6():
        address = "0.0.0.0"  # noqa: S104  the operator's default
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=address == "::")
    except OSError as error:
        raise OSError(f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}") from None


def _most_connections(wanted: int) -> int:
    """As many as wanted, or as the machine has descriptors for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed - RESERVED)


class _Server(uvicorn.Server):
    """uvicorn's server of one socket, with a listener of ours. Signals are the process's business."""

    def __init__(
        self,
        application: Callable[..., Any],
        own: Server,
        listen: Callable[[socket.socket, Open], Listener],
        strangers: Strangers | None = None,
    ) -> None:
        config = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=own.keep_alive_seconds,
            timeout_graceful_shutdown=own.drain_seconds,
        )
        super().__init__(config)
        self._listen, self._strangers = listen, strangers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        create = partial(
            Connection,
            strangers=self._strangers,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        opened = Open(create, self.server_state.connections)
        self.listeners = [self._listen(one, opened) for one in sockets or ()]
        self.servers = self.listeners  # type: ignore[assignment]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def accept_nobody(self) -> None:
        """From now on connections are refused."""
        for listener in self.listeners:
            listener.close()

    def close_after_answers(self) -> None:
        """From now on every answer says `Connection: close`."""
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers.append((b"connection", b"close"))


class _Process:
    """The two servers of one process, from their start to their end."""

    def __init__(self, settings: Settings, counted: Metrics, certificate: Certificate) -> None:
        self._settings, self._metrics, self._certificate = settings, counted, certificate
        awaited = settings.bootstrap_hash if settings.server.published_file else ""
        self._state, self._stop = State(unpublished=awaited), asyncio.Event()
        self._admissions = _Server(
            app.create(settings, counted, self._state), settings.server, self._listen_securely, self._strangers()
        )
        self._monitoring = _Server(app.create_metrics(counted, self._state), settings.server, self._listen_plainly)

    def _strangers(self) -> Strangers | None:
        """What clients get that show no certificate of the right CA and name, if there has to be one."""
        own = self._settings.server
        if not own.client_ca_file:
            return None

        def know(certificate: Mapping[str, Any] | None) -> bool:
            if not certificate:
                return False
            return not own.client_names or not set(own.client_names).isdisjoint(names(certificate))

        return Strangers(know, app.create(self._settings, self._metrics, self._state, app.Stranger))

    def _listen_securely(self, listening: socket.socket, opened: Open) -> Listener:
        own, counted = self._settings.server, self._metrics
        limits = Limits(_most_connections(own.max_connections), own.max_handshakes, own.handshake_seconds)
        listener = Listener(listening, opened, lambda: self._certificate.context, limits, counted)
        counted.connections.set_function(lambda: len(listener))
        return listener

    def _listen_plainly(self, listening: socket.socket, opened: Open) -> Listener:
        return Listener(listening, opened, lambda: None, MONITORING, self._metrics)

    async def serve(self, admissions: socket.socket, monitoring: socket.socket) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)
        own = self._settings.server
        Connection.on_cut = self._metrics.connections_cut.inc
        Connection.request_seconds, Connection.answer_seconds = own.request_seconds, own.answer_seconds
        serving = [
            asyncio.create_task(self._admissions.serve([admissions])),
            asyncio.create_task(self._monitoring.serve([monitoring])),
        ]
        looking = asyncio.create_task(self._look())
        await self._started(admissions, monitoring)
        await self._stop.wait()
        await self._leave()
        await asyncio.gather(*serving)
        looking.cancel()
        _LOG.info("stopped")

    async def _started(self, admissions: socket.socket, monitoring: socket.socket) -> None:
        while not (self._admissions.started and self._monitoring.started):  # noqa: ASYNC110  uvicorn has no event
            await asyncio.sleep(0.001)
        gc.collect()
        gc.freeze()  # what is here now stays: no collection looks at it again
        gc.set_threshold(50_000, 20, 50)  # what a request allocates ends with it; looking for cycles took 10 % of it
        gc.enable()
        ports = {"port": admissions.getsockname()[1], "metrics_port": monitoring.getsockname()[1]}
        _LOG.info("serving", extra={"facts": {**ports, "settings_hash": self._settings.hash}})

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        self._stop.set()

    async def _leave(self) -> None:
        """Unready; and until endpoints are updated everywhere, every answer ends its connection. The more have ended
        so, the fewer are closed between two requests, where the client may be sending the next.
        """
        self._state.stopping = True
        self._admissions.close_after_answers()
        _LOG.info("stopping", extra={"facts": {"grace_seconds": self._settings.server.shutdown_grace_seconds}})
        await asyncio.sleep(self._settings.server.shutdown_grace_seconds)
        self._admissions.accept_nobody()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._no_connections(), LAST_CALL_SECONDS)
        self._admissions.should_exit = self._monitoring.should_exit = True

    async def _no_connections(self) -> None:
        while any(map(len, self._admissions.listeners)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _look(self) -> None:
        self._tell_expiry()
        while True:
            self._look_for_bootstrap()
            await asyncio.sleep(LOOK_SECONDS)
            self._reload()
            now = asyncio.get_running_loop().time()
            for server in (self._admissions, self._monitoring):
                cut_off_overdue(server.server_state.connections, now)

    def _look_for_bootstrap(self) -> None:
        """A pod that names a ConfigMap which is not in its namespace waits for it, so we wait first."""
        if not self._state.unpublished:
            return
        with suppress(OSError, UnicodeDecodeError):  # not there yet
            published = Path(self._settings.server.published_file).read_text().split()
            if self._state.unpublished in published:
                _LOG.info("bootstrap published", extra={"facts": {"hash": self._state.unpublished}})
                self._state.unpublished = ""

    def _reload(self) -> None:
        try:
            changed = self._certificate.reload()
        except CertificateError as error:
            self._metrics.certificate_refused.inc()
            self._metrics.certificate_current.set(0)
            _LOG.error("certificate refused", extra={"facts": {"problem": str(error), "served": "the former one"}})
            return
        if changed:
            self._metrics.certificate_reloaded.inc()
            self._metrics.certificate_current.set(1)
            self._tell_expiry()
            _LOG.info("certificate reloaded", extra={"facts": {"not_after": self._certificate.not_after.isoformat()}})

    def _tell_expiry(self) -> None:
        self._metrics.certificate_expiry.set(self._certificate.not_after.timestamp())
