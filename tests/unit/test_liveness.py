"""No thread of the control plane dies unnoticed: what can be survived is counted, and else /healthz says so."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from controlplane import kube, proxies, rounds
from controlplane.bootstrap import Bootstrap, render
from controlplane.monitoring import Health, monitoring
from controlplane.proxies import Proxies
from controlplane.publisher import Publisher
from controlplane.rounds import Metrics, Rounds
from controlplane.xds.feed import Feed
from controlplane.xds.metrics import PREFIX
from controlplane.xds.service import Place
from controlplane.xds.translate import Choices
from controlplane.xds.watch import COLLECTIONS
from controlplane.xds.world import World
from tests.apiserver.processes import eventually
from tests.cluster import service
from tests.faulty import Asked, Faulty, event, page, serving, status

Break = Callable[[pytest.MonkeyPatch], None]
SERVICES = COLLECTIONS["Service"].path
HERE = Place(address="127.0.0.1:0")
dying = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def dies(*_: object, **__: object) -> None:
    """As no exception of a bug does; what is not survived ends a thread like this."""
    raise SystemExit


@contextmanager
def probed(part: Health) -> Iterator[Callable[[], int]]:
    """Asks as the kubelet does."""
    pages = monitoring("127.0.0.1", 0, [part], CollectorRegistry())
    thread = threading.Thread(target=pages.serve_forever, args=[0.02])
    thread.start()

    def ask() -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", pages.server_address[1], timeout=10)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status

    try:
        yield ask
    finally:
        pages.shutdown()
        thread.join()
        pages.server_close()


@contextmanager
def started(part: Proxies) -> Iterator[Callable[[], int]]:
    part.start()
    try:
        with probed(part) as ask:
            eventually(lambda: part.ready, "it serves")
            assert ask() == 200
            yield ask
    finally:
        part.stop(0)


# Of proxies

OF_A_CLUSTER: dict[str, str] = {
    "feed": "controlplane.xds.worlds.Worlds.take",
    "watch": "controlplane.xds.feed.Feed.put",
    "events": "controlplane.reporter.event",
}


@dying
@pytest.mark.parametrize("broken", OF_A_CLUSTER.values(), ids=OF_A_CLUSTER.keys())
def test_a_thread_that_dies_is_not_healthy(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = threading.Event()

    def told(asked: Asked) -> Iterator[object]:
        if asked.path == SERVICES:
            changes.wait()
            yield event("ADDED", "6", service("bad", annotations={"retries": "x"}))
        yield from faulty.quiet()

    faulty = Faulty(lambda _: page([]), told)
    with serving(faulty) as api, started(proxies.of_cluster(api, HERE, Choices(), CollectorRegistry())) as ask:
        monkeypatch.setattr(broken, dies)
        changes.set()
        eventually(lambda: ask() == 503, "the kubelet restarts it")


@dying
def test_a_reader_of_files_that_dies_is_not_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(proxies.of_disk(tmp_path, HERE, Choices(), CollectorRegistry())) as ask:
        monkeypatch.setattr(Feed, "heard", dies)
        eventually(lambda: ask() == 503, "the kubelet restarts it")


def test_a_bug_below_the_feed_is_counted_told_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_once(self: World, *_: object, **__: object) -> None:
        monkeypatch.setattr(World, "mesh", mesh)
        raise ZeroDivisionError

    registry, mesh = CollectorRegistry(), World.mesh
    part = proxies.of_disk(tmp_path, HERE, Choices(), registry)
    with started(part) as ask:
        monkeypatch.setattr(World, "mesh", fails_once)
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(service("new")))
        eventually(lambda: b'"new"' in part.names(), "it is told of all the same")
        assert registry.get_sample_value(f"{PREFIX}_snapshot_failures_total") == 1
        assert [record.getMessage() for record in caplog.records if record.exc_info] == ["world not taken over"]
        assert ask() == 200


@pytest.mark.parametrize(
    ("answer", "reason"), [(b"<html>", "malformed"), (403, "refused"), (500, "server"), (410, "gone")]
)
def test_what_a_watch_survives_is_counted_by_its_reason(answer: bytes | int, reason: str) -> None:
    faulty, registry = Faulty(lambda _: answer, lambda _: faulty.quiet()), CollectorRegistry()
    with serving(faulty) as api:
        part = proxies.of_cluster(api, HERE, Choices(), registry)
        part.start()
        counted = (f"{PREFIX}_watch_failures_total", {"kind": "service", "reason": reason})
        eventually(lambda: registry.get_sample_value(*counted), "it is counted")
        assert (part.healthy, part.ready) == (True, False)
        part.stop(0)


def test_a_bug_of_ours_in_a_watch_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Feed, "listed", fails)
    faulty, registry = Faulty(lambda _: page([]), lambda _: faulty.quiet()), CollectorRegistry()
    with serving(faulty) as api:
        part = proxies.of_cluster(api, HERE, Choices(), registry)
        part.start()
        counted = (f"{PREFIX}_watch_failures_total", {"kind": "service", "reason": "internal"})
        eventually(lambda: registry.get_sample_value(*counted), "it is counted")
        assert part.healthy
        part.stop(0)


# Of publication


@contextmanager
def publishing(watches: Callable[[Asked], Iterator[object]]) -> Iterator[tuple[Faulty, Rounds]]:
    """Rounds that fail, and watch."""
    faulty = Faulty(lambda asked: page([]) if asked.query.get("limit") == "1" else 500, watches)
    with serving(faulty) as api:
        publisher = Publisher(api, "envoy-sidecar-system", render(Bootstrap()))
        running = Rounds(publisher, timedelta(days=30), 60, Metrics("0" * 10, CollectorRegistry()))
        thread = threading.Thread(target=running.run)
        thread.start()
        yield faulty, running
        running.stop()
        faulty.over.set()
        thread.join()


@pytest.mark.parametrize("lines", [[], [status(410)], [status(500)], [b"<html>\n"]], ids=["", "410", "500", "a page"])
def test_a_watch_of_namespaces_that_ends_at_once_is_asked_for_less_and_less_often(
    lines: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "BACKOFF_SECONDS", (0.2, 60.0))
    with publishing(lambda _: iter(lines)) as (faulty, running):
        eventually(lambda: len(faulty.watched(kube.NAMESPACES)) == 4, "it is asked for")
        waits = [later.at - earlier.at for earlier, later in pairwise(faulty.watched(kube.NAMESPACES))]
        assert all(wait > least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True)), waits
        assert running.healthy


def test_a_watch_of_namespaces_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(_asked: Asked) -> Iterator[object]:
        faulty.over.wait(0.05)
        yield event("BOOKMARK", "70")

    monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.0)
    with publishing(told) as (faulty, _):
        eventually(lambda: len(faulty.watched(kube.NAMESPACES)) > 2, "it is asked for")
        versions = [one.query.get("resourceVersion") for one in faulty.watched(kube.NAMESPACES)]
        assert versions[:3] == ["5", "70", "70"]


def test_what_happened_before_a_watch_of_namespaces_began_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(_asked: Asked) -> Iterator[object]:
        faulty.over.wait(0.1)
        yield status(410)

    def counts(_self: Rounds) -> bool:
        made.append(None)
        return True

    made: list[None] = []
    monkeypatch.setattr(rounds, "BACKOFF_SECONDS", (0.02, 0.05))
    monkeypatch.setattr(rounds, "BREATH_SECONDS", 0.01)
    monkeypatch.setattr(Rounds, "_round", counts)
    with publishing(told) as (faulty, _):
        eventually(lambda: len(made) > 3, "a round for each watch, though the period is a minute")


@dying
def test_a_watch_of_namespaces_that_dies_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(_asked: Asked) -> Iterator[object]:
        broken.wait()
        yield from ()

    broken = threading.Event()
    with publishing(told) as (_, running), probed(running) as ask:
        assert ask() == 200
        monkeypatch.setattr(Rounds, "_hear", dies)
        monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.0)
        broken.set()
        eventually(lambda: ask() == 503, "the kubelet restarts it")
