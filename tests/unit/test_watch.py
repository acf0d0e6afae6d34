"""What the watch does with each fault of an API server, and of what stands before it: it ends with what a list says."""

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest
import yaml

from controlplane import apiserver, kube
from controlplane.apiserver import KubeError
from controlplane.backoff import Backoff
from controlplane.extensions import Json
from controlplane.kube import Kube
from controlplane.xds import watch
from controlplane.xds.feed import Feed
from controlplane.xds.mesh import Mesh
from controlplane.xds.watch import COLLECTIONS, RESYNC_SECONDS, Watch
from controlplane.xds.world import WHAT, What
from tests.apiserver.processes import eventually
from tests.cluster import service
from tests.faulty import Asked, Cut, Faulty, event, page, serving, status

SERVICES = COLLECTIONS["Service"].path
ONE, TWO = service("one"), service("two")


# How long is waited


def test_it_waits_twice_as_long_each_time_up_to_a_bound() -> None:
    backoff = Backoff(0.5, 30.0, chance=lambda: 0.0)
    assert [backoff.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_and_up_to_half_less_by_chance_so_that_replicas_do_not_ask_together() -> None:
    backoff = Backoff(0.5, 30.0, chance=iter([0.0, 0.5, 1.0]).__next__)
    assert [backoff.failed() for _ in range(3)] == [0.5, 0.75, 1.0]
    waits = {Backoff(8.0, 8.0).failed() for _ in range(100)}
    assert min(waits) >= 4
    assert max(waits) - min(waits) > 2


def test_what_worked_begins_anew() -> None:
    backoff = Backoff(0.5, 30.0, chance=lambda: 0.0)
    for _ in range(5):
        backoff.failed()
    backoff.worked()
    assert backoff.failed() == 0.5


# A watch of all kinds


@dataclass
class Watched:
    """A watch, the newest Mesh that it led to, and what failed."""

    running: Watch
    feed: Feed
    meshes: list[Mesh] = field(default_factory=list)
    failures: list[tuple[What, Exception]] = field(default_factory=list)

    def names(self) -> set[str]:
        return set(self.meshes[-1].services.get("shop", {})) if self.meshes else set()

    def reasons(self, what: What = "Service") -> list[str]:
        return [error.reason for kind, error in self.failures if kind == what and isinstance(error, KubeError)]


@contextmanager
def watching(api: Kube, resync_seconds: float = RESYNC_SECONDS) -> Iterator[Watched]:
    meshes: list[Mesh] = []
    failures: list[tuple[What, Exception]] = []
    feed = Feed(meshes.append)
    running = Watch(api, feed, lambda what, error: failures.append((what, error)), resync_seconds)
    thread = threading.Thread(target=feed.run)
    thread.start()
    running.start()
    try:
        yield Watched(running, feed, meshes, failures)
    finally:
        running.stop()
        feed.stop()
        thread.join()


@contextmanager
def faults(
    lists: Callable[[Asked], Json | bytes | int], watches: Callable[[Asked], Iterator[object]]
) -> Iterator[tuple[Faulty, Kube]]:
    """An API server that has these for Services, and of all else nothing."""
    faulty = Faulty(
        lambda asked: lists(asked) if asked.path == SERVICES else page([]),
        lambda asked: watches(asked) if asked.path == SERVICES else faulty.quiet(),
    )
    with serving(faulty) as api:
        yield faulty, api


def in_turn(*watches: Callable[[], Iterator[object]]) -> Callable[[Asked], Iterator[object]]:
    """One for each watch that is asked for; the last of them again and again."""
    numbers = itertools.count()
    return lambda _asked: watches[min(next(numbers), len(watches) - 1)]()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches may end as soon as they like, and failures wait a moment only."""
    monkeypatch.setattr(watch, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(watch, "BACKOFF_SECONDS", (0.02, 0.05))


# 410 Gone, bookmarks, disconnects


@pytest.mark.usefixtures("unhurried")
def test_a_list_whose_next_page_is_gone_is_begun_anew() -> None:
    def lists(asked: Asked) -> Json | int:
        pages[asked.query.get("continue", "")] += 1
        if asked.query.get("continue"):
            return page([TWO]) if pages["there"] > 1 else 410
        return page([ONE], following="there")

    pages = {"": 0, "there": 0}
    with faults(lists, lambda _: faulty.quiet()) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"one", "two"}, "both pages are known")
        assert watched.reasons() == ["gone"]
        assert pages == {"": 2, "there": 2}


@pytest.mark.usefixtures("unhurried")
def test_a_watch_that_is_gone_is_listed_anew() -> None:
    def gone() -> Iterator[object]:
        yield status(410)

    lists = iter([page([ONE]), page([TWO], version="9")])
    with (
        faults(lambda _: next(lists), in_turn(gone, lambda: faulty.quiet())) as (faulty, api),
        watching(api) as watched,
    ):
        eventually(lambda: watched.names() == {"two"}, "what the second list says is known")
        assert watched.reasons() == ["gone"]
        eventually(
            lambda: [one.query["resourceVersion"] for one in faulty.watched(SERVICES)] == ["5", "9"], "it goes on"
        )


@pytest.mark.usefixtures("unhurried")
def test_a_bookmark_moves_the_version_on_from_which_is_watched_next() -> None:
    def told() -> Iterator[object]:
        yield event("BOOKMARK", "70")

    with (
        faults(lambda _: page([ONE]), in_turn(told, lambda: faulty.quiet())) as (faulty, api),
        watching(api) as watched,
    ):
        eventually(lambda: len(faulty.watched(SERVICES)) == 2, "it is watched again")
        assert [one.query["resourceVersion"] for one in faulty.watched(SERVICES)] == ["5", "70"]
        assert all(one.query["allowWatchBookmarks"] == "true" for one in faulty.watched(SERVICES))
        assert len(faulty.listed(SERVICES)) == 1
        assert watched.failures == []


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("rest", [b"", b'{"type": "ADD'], ids=["between events", "within one"])
def test_after_a_disconnect_it_goes_on_where_it_was(rest: bytes) -> None:
    def cut() -> Iterator[object]:
        yield event("ADDED", "6", TWO)
        yield rest or b"\n"
        raise Cut

    def goes_on() -> Iterator[object]:
        yield event("DELETED", "7", ONE)
        yield from faulty.quiet()

    with faults(lambda _: page([ONE]), in_turn(cut, goes_on)) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"two"}, "what was told before, and what after that, is known")
        assert [one.query["resourceVersion"] for one in faulty.watched(SERVICES)] == ["5", "6"]
        assert len(faulty.listed(SERVICES)) == 1
        assert len(watched.reasons()) == 1


@pytest.mark.usefixtures("unhurried")
def test_a_connection_that_says_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(apiserver, "TIMEOUT", (5, 0.2))
    with faults(lambda _: page([ONE]), lambda _: faulty.quiet()) as (faulty, api), watching(api) as watched:
        eventually(lambda: len(faulty.watched(SERVICES)) >= 3, "it is asked for again")
        first, second = faulty.watched(SERVICES)[:2]
        assert 0.3 <= second.at - first.at < 3
        assert set(watched.reasons()) == {"unreachable"}


def test_a_watch_is_over_before_what_stands_between_takes_it_for_idle_and_a_dead_one_is_noticed_soon() -> None:
    assert kube.WATCH_SECONDS < 60  # an nginx's proxy_read_timeout, and the idle timeout of many load balancers
    assert kube.WATCH_SECONDS + apiserver.TIMEOUT[1] <= 75
    probes = apiserver.KEEPALIVE
    assert probes["TCP_KEEPIDLE"] + probes["TCP_KEEPINTVL"] * probes["TCP_KEEPCNT"] <= 45


# Resync


@pytest.mark.usefixtures("unhurried")
def test_what_a_watch_missed_is_known_after_the_next_list() -> None:
    now = [ONE]

    def ends() -> Iterator[object]:
        faulty.over.wait(0.05)
        yield event("BOOKMARK", "6")

    with faults(lambda _: page(now), lambda _: ends()) as (faulty, api), watching(api, resync_seconds=0.2) as watched:
        eventually(lambda: watched.names() == {"one"}, "the first is known")
        now[:] = [TWO]
        eventually(lambda: watched.names() == {"two"}, "and the other")
        before = len(watched.meshes)
        known = len(faulty.listed(SERVICES))
        eventually(lambda: len(faulty.listed(SERVICES)) > known + 3, "it is listed again and again")
        assert len(watched.meshes) == before
        assert watched.failures == []


@pytest.mark.usefixtures("unhurried")
def test_not_all_kinds_are_listed_anew_together() -> None:
    def ends() -> Iterator[object]:
        faulty.over.wait(0.005)
        yield event("BOOKMARK", "6")

    def waits() -> list[float]:
        listed = [faulty.listed(one.path) for one in COLLECTIONS.values()]
        return [of[1].at - of[0].at for of in listed if len(of) > 1]

    faulty = Faulty(lambda _: page([]), lambda _: ends())
    with serving(faulty) as api, watching(api, resync_seconds=0.8):
        eventually(lambda: len(waits()) == len(WHAT), "each kind is listed anew")
    assert 0.6 <= min(waits()) < 0.78


@pytest.mark.usefixtures("unhurried")
def test_a_store_that_is_not_as_far_as_what_is_known_is_listed_anew() -> None:
    """An etcd that was restored from a backup: a watch from a version that it does not have yet is silent."""
    version = ["900"]

    def ends() -> Iterator[object]:
        faulty.over.wait(0.05)
        yield from ()

    def lists(_asked: Asked) -> Json:
        return page([ONE] if version[0] == "900" else [TWO], version=version[0])

    with faults(lists, lambda _: ends()) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"one"}, "the first is known")
        eventually(lambda: len(faulty.watched(SERVICES)) > 3, "it is watched")
        whole = [one for one in faulty.listed(SERVICES) if one.query["limit"] != "1"]
        assert len(whole) == 1
        version[0] = "12"
        eventually(lambda: watched.names() == {"two"}, "what was restored is known")
        assert watched.failures == []


# What is no watch, and no API server


def test_a_watch_that_ends_at_once_is_asked_for_less_and_less_often() -> None:
    with faults(lambda _: page([ONE]), lambda _: iter(())) as (faulty, api), watching(api) as watched:
        eventually(lambda: len(faulty.watched(SERVICES)) == 4, "it is asked for")
        times = [one.at for one in faulty.watched(SERVICES)]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert all(wait > least for wait, least in zip(waits, (0.25, 0.5, 1.0), strict=True)), waits
        assert set(watched.reasons()) == {"short"}


@pytest.mark.parametrize("code", [410, 500])
def test_and_so_is_one_that_says_an_error_at_once(code: int) -> None:
    with faults(lambda _: page([ONE]), lambda _: iter([status(code)])) as (faulty, api), watching(api):
        begun = monotonic()
        eventually(lambda: len(faulty.watched(SERVICES)) == 4, "it is asked for")
        assert monotonic() - begun > 0.25 + 0.5 + 1.0


STRANGE: dict[str, bytes] = {
    "a page for people": b"<html>sign in</html>",
    "no items": b'{"kind": "Status", "metadata": {}}',
    "items that are none": b'{"items": 5, "metadata": {"resourceVersion": "5"}}',
    "no version": b'{"items": [], "metadata": {}}',
    "a list": b"[]",
    "a number": b"5",
    "nothing": b"",
    "10,000 levels": b"[" * 10_000,
}


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_no_list_is_survived_and_counted(answer: bytes) -> None:
    answers = iter([answer, answer, json.dumps(page([ONE])).encode()])
    with faults(lambda _: next(answers), lambda _: faulty.quiet()) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"one"}, "what a good list says is known")
        assert watched.reasons() == ["malformed", "malformed"]
        assert watched.running.healthy


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"5",
        b"<html>",
        b'{"type": 5}',
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": []}',
        b'{"type": "ADDED", "object": {"metadata": {}}}',
        b'{"type": "NEWS", "object": {"metadata": {"resourceVersion": "6"}}}',
        b'{"type": "ERROR", "object": {"code": "many"}}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_what_is_no_event_is_survived_and_counted(line: bytes) -> None:
    def good() -> Iterator[object]:
        yield event("ADDED", "6", TWO)
        yield from faulty.quiet()

    watches = in_turn(lambda: iter([line + b"\n"]), good)
    with faults(lambda _: page([ONE]), watches) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"one", "two"}, "what comes after it is known")
        assert watched.reasons() == ["malformed"]
        assert watched.running.healthy


@pytest.mark.usefixtures("unhurried")
def test_a_bug_of_ours_is_survived_and_told_and_all_is_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Feed.put

    def fails_once(self: Feed, what: What, found: Json) -> None:
        monkeypatch.setattr(Feed, "put", put)
        raise ZeroDivisionError

    def good() -> Iterator[object]:
        yield event("ADDED", "6", TWO)
        yield from faulty.quiet()

    monkeypatch.setattr(Feed, "put", fails_once)
    with faults(lambda _: page([ONE]), lambda _: good()) as (faulty, api), watching(api) as watched:
        eventually(lambda: watched.names() == {"one", "two"}, "all is known")
        assert [type(error) for _, error in watched.failures] == [ZeroDivisionError]
        assert len(faulty.listed(SERVICES)) == 2


@pytest.mark.usefixtures("unhurried")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_all_the_same_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise SystemExit

    with (
        faults(lambda _: page([ONE]), lambda _: iter([event("ADDED", "6", TWO)])) as (_, api),
        watching(api) as watched,
    ):
        eventually(lambda: bool(watched.meshes), "it works")
        assert watched.running.healthy
        monkeypatch.setattr(Feed, "put", dies)
        eventually(lambda: not watched.running.healthy, "one of its threads is dead")


# TCP


def test_the_kernel_asks_whether_the_api_server_is_still_there(tmp_path: Path) -> None:
    faulty = Faulty(lambda _: page([]), lambda _: faulty.quiet())
    with serving(faulty) as plain:
        api = Kube(apiserver.connect(_kubeconfig(tmp_path, plain.api.configuration.host)))
        api.newest(COLLECTIONS["Service"])
        pool = api.api.rest_client.pool_manager.connection_from_url(plain.api.configuration.host)
        assert pool.pool is not None
        connection = pool.pool.get(block=False)
        options = {
            name: connection.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in apiserver.KEEPALIVE
        }
        assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert options == apiserver.KEEPALIVE
        connection.close()


def _kubeconfig(directory: Path, url: str) -> str:
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    place = directory / "kubeconfig"
    place.write_text(yaml.safe_dump(found))
    return str(place)
