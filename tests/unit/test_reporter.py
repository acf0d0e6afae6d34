"""Which problems become Events and when, also when one author has very many, and when they cannot be written."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import monotonic

import pytest

from controlplane.apiserver import KubeError
from controlplane.extensions import Json
from controlplane.reporter import OF_A_NAMESPACE, Reporter
from controlplane.xds.events import PERIOD_SECONDS, event, period
from controlplane.xds.mesh import Mesh, Problem
from tests.apiserver.processes import eventually
from tests.cluster import mesh, service, slice_of

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Written:
    """What was written, in the place of an API server; the first is refused for a reason, if there is one."""

    def __init__(self, *refusals: KubeError) -> None:
        self.refusals, self.events = list(refusals), list[Json]()

    def write(self, event: Json) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.events.append(event)

    def of(self, namespace: str) -> list[Json]:
        return [event for event in self.events if event["metadata"]["namespace"] == namespace]


def bad(count: int, namespace: str, value: str = "x") -> list[Json]:
    return [service(f"s{number}", namespace, {"retries": value}) for number in range(count)]


def both(evil: int, value: str = "x") -> Mesh:
    return mesh(*bad(evil, "evil", value), *bad(1, "shop"))


def test_one_author_with_thousands_of_problems_keeps_no_other_from_hearing_of_his() -> None:
    written = Written()
    Reporter(written.write).look(both(evil=5000))
    eventually(lambda: written.of("shop"), "the other's is written")
    assert len(written.of("evil")) == OF_A_NAMESPACE


def test_one_author_who_is_wrong_in_a_new_way_all_the_time_is_told_a_few() -> None:
    written = Written()
    reporter = Reporter(written.write)
    for number in range(100):
        reporter.look(both(evil=10, value=f"x{number}"))
    eventually(lambda: written.of("shop"), "the other's is written")
    assert len(written.of("evil")) <= OF_A_NAMESPACE + 1


@pytest.mark.parametrize("reason", ["refused", "missing", "server"])
def test_one_that_the_api_server_refuses_does_not_end_the_others(reason: str) -> None:
    written = Written(KubeError(reason, "namespace is being terminated"))  # type: ignore[arg-type]
    Reporter(written.write).look(both(evil=1))
    eventually(lambda: written.of("shop"), "the other's is written")


@pytest.mark.parametrize("name", ["a" * 199 + "-" * 20 + "a", "a" * 198 + "." + "a-a.a" * 8])
def test_an_events_name_is_one_that_the_api_server_takes(name: str) -> None:
    written = Written()
    raw = slice_of(endpoints=["127.0.0.1"])
    raw["metadata"]["name"] = name
    Reporter(written.write).look(mesh(service(), raw))
    (event,) = eventually(lambda: written.events, "it is written")
    assert SUBDOMAIN.fullmatch(event["metadata"]["name"])
    assert len(event["metadata"]["name"]) <= 253


# Its object


def test_an_event_is_of_the_object_with_that_uid_for_kubectl_looks_for_it() -> None:
    raw = service(annotations={"retries": "x"})
    raw["metadata"]["uid"] = "8c1e"
    (problem,) = mesh(raw).services["shop"]["orders"].problems
    involved = event(problem, NOW)["involvedObject"]
    assert involved == {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "orders", "uid": "8c1e"}


def test_an_event_of_a_slice_names_the_version_of_its_api() -> None:
    raw = slice_of(endpoints=["127.0.0.1"])
    raw["metadata"]["uid"] = "4711"
    (problem,) = mesh(service(), raw).problems
    involved = event(problem, NOW)["involvedObject"]
    assert (involved["apiVersion"], involved["uid"]) == ("discovery.k8s.io/v1", "4711")


def test_a_service_that_is_deleted_and_made_anew_has_an_event_of_its_own() -> None:
    names = {event(Problem("Service shop/orders", "bad", uid), NOW)["metadata"]["name"] for uid in ("1", "2")}
    assert len(names) == 2


# Again and again

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
BAD = Problem("Service shop/orders", "bad")


def test_while_it_lasts_there_is_a_new_event_before_the_api_server_forgets_the_last() -> None:
    minutes = [NOW + timedelta(minutes=number) for number in range(600)]
    changes = [later for earlier, later in pairwise(minutes) if period(BAD, earlier) != period(BAD, later)]
    assert {later - earlier for earlier, later in pairwise(changes)} == {timedelta(seconds=PERIOD_SECONDS)}
    assert PERIOD_SECONDS < 3600 - 5 * 60
    assert event(BAD, changes[0])["metadata"]["name"] != event(BAD, changes[1])["metadata"]["name"]


def test_two_replicas_write_the_same_event() -> None:
    assert event(BAD, NOW)["metadata"]["name"] == event(BAD, NOW + timedelta(seconds=1))["metadata"]["name"]


def test_not_everything_is_written_anew_at_the_same_time() -> None:
    problems = [Problem(f"Service shop/s{number}", "bad") for number in range(100)]
    soon = NOW + timedelta(seconds=PERIOD_SECONDS / 10)
    assert 0 < sum(period(one, NOW) != period(one, soon) for one in problems) < 30


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_a_problem_that_lasts_is_written_in_each_period_once() -> None:
    written, clock = Written(), Clock()
    reporter = Reporter(written.write, clock, look_seconds=0.02)
    reporter.look(mesh(*bad(1, "shop")))
    eventually(lambda: len(written.events) == 1, "it is written")
    clock.now += timedelta(seconds=PERIOD_SECONDS)
    eventually(lambda: len(written.events) == 2, "and again")
    reporter.look(mesh(*bad(1, "shop"), *bad(1, "books")))
    eventually(lambda: written.of("books"), "another one is")
    assert len(written.of("shop")) == 2


def test_one_that_is_over_is_not_written_again() -> None:
    written, clock = Written(), Clock()
    reporter = Reporter(written.write, clock, look_seconds=0.02)
    reporter.look(mesh(*bad(1, "shop")))
    eventually(lambda: written.of("shop"), "it is written")
    reporter.look(mesh(*bad(1, "books")))
    eventually(lambda: written.of("books"), "another one is")
    clock.now += timedelta(seconds=PERIOD_SECONDS)
    eventually(lambda: len(written.of("books")) == 2, "and again")
    assert len(written.of("shop")) == 1


@pytest.mark.parametrize("reason", ["unreachable", "server", "malformed"])
def test_what_could_not_be_written_is_written_when_it_can_be(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.reporter.BACKOFF_SECONDS", (0.02, 0.05))
    written = Written(*[KubeError(reason, "no")] * 3)  # type: ignore[arg-type]
    Reporter(written.write, look_seconds=0.02).look(mesh(*bad(2, "shop")))
    eventually(lambda: len(written.events) == 2, "both are written")
    assert written.refusals == []


def test_while_the_api_server_is_away_it_is_asked_once_at_a_time_and_later_and_later() -> None:
    asked: list[float] = []

    def write(_event: Json) -> None:
        asked.append(monotonic())
        raise KubeError("unreachable", "no")

    reporter = Reporter(write, look_seconds=0.02)
    for number in range(3):
        reporter.look(mesh(*bad(20, f"shop{number}")))
    eventually(lambda: len(asked) == 3, "it is asked")
    assert asked[1] - asked[0] > 0.5
    assert asked[2] - asked[1] > 1.0


def test_what_was_not_within_its_share_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.reporter.A_SECOND", 200.0)
    written = Written()
    Reporter(written.write, look_seconds=0.02).look(mesh(*bad(int(OF_A_NAMESPACE) + 20, "shop")))
    eventually(lambda: len(written.events) == OF_A_NAMESPACE + 20, "all are written")


def test_what_the_api_server_refuses_is_not_asked_of_it_again_and_again() -> None:
    asked: list[str] = []

    def write(event: Json) -> None:
        asked.append(event["metadata"]["namespace"])
        raise KubeError("refused", "no")

    reporter = Reporter(write, look_seconds=0.01)
    reporter.look(mesh(*bad(1, "shop")))
    for number in range(5):
        reporter.look(mesh(*bad(1, "shop"), *bad(1, f"books{number}")))
        eventually(lambda last=f"books{number}": last in asked, "the other is asked for")  # type: ignore[misc]
    assert asked.count("shop") == 1


def test_a_bug_of_ours_with_one_event_keeps_no_other_from_being_written() -> None:
    written = Written()

    def write(event: Json) -> None:
        if event["metadata"]["namespace"] == "evil":
            raise ZeroDivisionError
        written.write(event)

    reporter = Reporter(write)
    reporter.look(both(evil=1))
    eventually(lambda: written.of("shop"), "the other's is written")
    assert reporter.healthy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_all_the_same_is_not_healthy() -> None:
    def write(_event: Json) -> None:
        raise SystemExit

    reporter = Reporter(write)
    assert reporter.healthy
    reporter.look(both(evil=1))
    eventually(lambda: not reporter.healthy, "its thread is dead")
