"""The watch of namespaces by which one that opts in gets its bootstrap at once: it survives what an API server does."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from queue import Empty, SimpleQueue

import pytest
from prometheus_client import CollectorRegistry

from controlplane import apiserver, kube, rounds
from controlplane.backoff import Backoff
from controlplane.bootstrap import Bootstrap, render
from controlplane.extensions import Json
from controlplane.kube import NAMESPACES, Kube
from controlplane.publisher import Publisher
from controlplane.rounds import Metrics, Rounds
from tests.apiserver.processes import eventually
from tests.faulty import Asked, Cut, Faulty, event, page, serving, status

pytestmark = pytest.mark.usefixtures("unhurried")


class Counting(Rounds):
    """It publishes nothing; `made` are the rounds in which it would have, one a minute if it hears of nothing."""

    made = 0

    def _round(self) -> bool:
        self.made += 1
        return True


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds follow each other at once, watches may end as soon as they like, and failures wait a moment only."""
    monkeypatch.setattr(rounds, "BREATH_SECONDS", 0.01)
    monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "BACKOFF_SECONDS", (0.02, 0.05))


@contextmanager
def publishing(faulty: Faulty) -> Iterator[Counting]:
    with serving(faulty) as api:
        publisher = Publisher(api, "envoy-sidecar-system", render(Bootstrap()))
        running = Counting(publisher, timedelta(days=30), 60, Metrics("0" * 10, CollectorRegistry()))
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield running
        finally:
            running.stop()
            faulty.over.set()
            thread.join()
            running._watching.join(10)
            assert not running._watching.is_alive()


def settled(running: Counting) -> int:
    """How many rounds there were, once none is due: none came for ten times as long as one waits for the next."""

    def is_quiet() -> bool:
        before = running.made
        threading.Event().wait(10 * rounds.BREATH_SECONDS)
        return running.made == before > 0

    eventually(is_quiet, "no round is due")
    return running.made


def growing() -> Callable[[Asked], Json]:
    """A list of a store that is a version further whenever it is asked for: 1, 2, 3."""
    versions = count(1)
    return lambda _asked: page([], f"{next(versions)}")


def versions(faulty: Faulty) -> list[str]:
    """From which it has watched."""
    return [one.query["resourceVersion"] for one in faulty.watched(NAMESPACES)]


def test_whenever_a_namespace_opts_in_or_out_there_is_a_round() -> None:
    def watches(_asked: Asked) -> Iterator[object]:
        while not faulty.over.is_set():
            with suppress(Empty):
                yield told.get(timeout=0.01)

    told, faulty = SimpleQueue[Json](), Faulty(growing(), watches)
    with publishing(faulty) as running:
        eventually(lambda: versions(faulty) == ["1"], "it watches")
        for number, what in enumerate(("ADDED", "DELETED", "ADDED", "MODIFIED"), start=2):
            before = settled(running)
            told.put(event(what, f"{number}"))
            eventually(lambda: running.made > before, "a round")  # noqa: B023


@pytest.mark.parametrize(
    "end",
    [[], [b'{"type": "ADD'], [status(410)], [status(500)], [b"<html>\n"], [b"[]\n"]],
    ids=["cut", "cut within an event", "410", "500", "a page", "no event"],
)
def test_after_a_watch_that_failed_there_is_a_round_and_it_watches_from_what_the_store_has_by_then(
    end: Sequence[object],
) -> None:
    def watches(_asked: Asked) -> Iterator[object]:
        if len(faulty.watched(NAMESPACES)) > 1:
            yield from faulty.quiet()
        yield event("ADDED", "70")
        begun.wait(10)
        yield from end
        raise Cut

    begun, faulty = threading.Event(), Faulty(growing(), watches)
    with publishing(faulty) as running:
        eventually(lambda: versions(faulty) == ["1"], "it watches")
        before = settled(running)
        begun.set()
        eventually(lambda: running.made > before, "a round")
        eventually(lambda: versions(faulty) == ["1", "2"], "it watches again")


def test_watches_that_told_something_before_they_were_cut_are_asked_for_again_as_soon_as_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy between that cuts all connections after some seconds must not make it deaf, longer each time."""

    def watches(_asked: Asked) -> Iterator[object]:
        yield event("ADDED", "70")
        raise Cut

    waits = list[int]()

    def failed(backoff: Backoff) -> float:
        waits.append(backoff.failures)
        backoff.failures += 1
        return 0.01

    monkeypatch.setattr(Backoff, "failed", failed)
    faulty = Faulty(growing(), watches)
    with publishing(faulty):
        eventually(lambda: len(waits) > 5, "watches are cut")
    assert set(waits) == {0}


def test_a_watch_that_says_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(apiserver, "TIMEOUT", (5, 0.2))
    faulty = Faulty(growing(), lambda _: faulty.quiet())
    with publishing(faulty):
        eventually(lambda: versions(faulty)[:3] == ["1", "2", "3"], "it is asked for anew, again and again")


def test_what_is_no_answer_to_where_a_watch_begins_is_survived() -> None:
    answers: list[Json | bytes | int] = [403, 500, 410, b"<html>", b"{}"]
    faulty = Faulty(lambda _: answers.pop(0) if answers else page([]), lambda _: faulty.quiet())
    with publishing(faulty) as running:
        eventually(lambda: versions(faulty) == ["5"], "it watches in the end")
        assert running.healthy


def test_a_bug_of_ours_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_once(*_: object) -> str:
        monkeypatch.setattr(Kube, "newest", newest)
        raise ZeroDivisionError

    newest = Kube.newest
    monkeypatch.setattr(Kube, "newest", fails_once)
    faulty = Faulty(growing(), lambda _: faulty.quiet())
    with publishing(faulty) as running:
        eventually(lambda: versions(faulty) == ["1"], "it watches")
        assert running.healthy
