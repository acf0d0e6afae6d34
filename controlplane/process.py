"""`serve`: the parts of the process put together, and taken apart when a signal comes."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import ThreadingHTTPServer
from types import FrameType

from prometheus_client import CollectorRegistry, ProcessCollector

from controlplane import logs, proxies
from controlplane.apiserver import KubeError, connect
from controlplane.bootstrap import render
from controlplane.kube import Kube
from controlplane.monitoring import monitoring
from controlplane.offline import choices_of
from controlplane.proxies import EVERYWHERE, LOOPBACK, Proxies
from controlplane.publisher import Publisher
from controlplane.rounds import Metrics, Rounds
from controlplane.settings import Settings
from controlplane.xds.credentials import CredentialsError
from controlplane.xds.identity import believe
from controlplane.xds.service import Place

OK, UNUSABLE = 0, 2  # exit codes
STOP_SECONDS = 10.0  # in which the streams of a cluster's proxies end
_PROBLEMS = (KubeError, CredentialsError, OSError, ValueError)


def of_cluster(settings: Settings, options: argparse.Namespace) -> int:
    """Serves proxies, if there is a certificate, and publishes bootstraps, until a signal comes; the exit code."""
    logs.log_to_stderr()
    registry = _registry()
    try:
        kube = Kube(connect(options.kubeconfig))
        publisher = Publisher(kube, options.namespace, render(settings.bootstrap))
        metrics = Metrics(publisher.current, registry)
        rounds = Rounds(publisher, timedelta(days=options.retention_days), options.period_seconds, metrics)
        part = None
        if options.tls_directory:
            place = Place(address=options.xds_address or EVERYWHERE, tls=options.tls_directory, review=kube.review)
            part = proxies.of_cluster(kube, place, choices_of(settings), registry)
        pages = _begin(options, registry, rounds, part)
    except _PROBLEMS as error:
        return _unusable(error)
    _on_signal(lambda *_: rounds.stop())
    rounds.run()
    _end(pages, part, STOP_SECONDS)
    return OK


def of_disk(settings: Settings, options: argparse.Namespace) -> int:
    """Serves proxies what the manifests say, until a signal comes; returns the exit code.

    On loopback, or by TLS to whoever shows a token, which nobody verifies.
    """
    logs.log_to_stderr()
    stopping, registry = threading.Event(), _registry()
    try:
        if not (options.manifests.is_file() or options.manifests.is_dir()):  # later it is only said: it may come back
            raise ValueError(f"{options.manifests}: no such file or folder")
        tls = options.tls_directory
        place = Place(address=options.xds_address or LOOPBACK, tls=tls, review=believe if tls else None)
        part = proxies.of_disk(options.manifests, place, choices_of(settings), registry)
        pages = _begin(options, registry, None, part)
    except _PROBLEMS as error:
        return _unusable(error)
    _on_signal(lambda *_: stopping.set())
    stopping.wait()
    _end(pages, part, 0.5)
    return OK


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def _begin(
    options: argparse.Namespace, registry: CollectorRegistry, rounds: Rounds | None, part: Proxies | None
) -> ThreadingHTTPServer:
    parts = [one for one in (rounds, part) if one is not None]
    debug = part.debug if part else lambda _method, _path: None
    names = part.names if part else bytes
    pages = monitoring(options.metrics_address, options.metrics_port, parts, registry, debug, names)
    if part:
        part.start()
    threading.Thread(target=pages.serve_forever, name="monitoring", daemon=True).start()
    logs.tell("serving", xds_port=str(part.port if part else ""), metrics_port=str(pages.server_address[1]))
    return pages


def _end(pages: ThreadingHTTPServer, part: Proxies | None, seconds: float) -> None:
    if part:
        part.stop(seconds)
    pages.shutdown()


def _on_signal(do: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, do)


def _unusable(error: Exception) -> int:
    print(f"controlplane: {error}", file=sys.stderr)
    return UNUSABLE
