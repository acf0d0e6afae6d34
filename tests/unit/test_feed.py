"""From what sources tell to the next Mesh: when, in which portions, and what is held back."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, process_time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.extensions import Json
from controlplane.xds.debounce import ENDPOINTS_SECONDS, FEWER_SECONDS, MOST_SECONDS, QUIET_SECONDS, Debounce, Due
from controlplane.xds.disk import LOOK_SECONDS, MAX_BYTES, Disk, DiskError, read
from controlplane.xds.feed import STUCK_SECONDS, Feed
from controlplane.xds.guard import SECONDS, Guard
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.world import WHAT, What
from tests.apiserver.processes import eventually
from tests.cluster import addresses, endpoint, mesh, node, pod, service, slice_of, world

ORDERS, USERS = Key("shop", "orders"), Key("shop", "users")
DEADLINE_SECONDS = 10.0


# Debounce


def test_a_first_change_of_endpoints_is_told_at_once() -> None:
    debounce = Debounce()
    debounce.endpoints(ORDERS, 5.0, fewer=False)
    assert debounce.due(5.0) == Due(frozenset({ORDERS}))


def test_the_next_waits_for_the_rest_of_the_time() -> None:
    debounce = Debounce()
    debounce.endpoints(ORDERS, 5.0, fewer=False)
    debounce.due(5.0)
    debounce.endpoints(ORDERS, 5.05, fewer=False)
    debounce.endpoints(USERS, 5.05, fewer=False)
    assert debounce.due(5.1) == Due(frozenset({USERS}))
    assert debounce.seconds(5.1) == pytest.approx(ENDPOINTS_SECONDS - 0.1)
    assert debounce.due(5.2) == Due(frozenset({ORDERS}))


def test_an_endpoint_that_is_gone_is_told_at_once_also_soon_after_another() -> None:
    debounce = Debounce()
    for now in (5.0, 5.0 + FEWER_SECONDS, 5.0 + 2 * FEWER_SECONDS):
        debounce.endpoints(ORDERS, now, fewer=True)
        assert debounce.due(now) == Due(frozenset({ORDERS}))


def test_what_flaps_is_told_fifty_times_a_second_at_most() -> None:
    debounce, told = Debounce(), 0
    for millisecond in range(1000):
        debounce.endpoints(ORDERS, 5.0 + millisecond / 1000, fewer=True)
        told += bool(debounce.due(5.0 + millisecond / 1000))
    assert told == 50


def test_all_else_waits_until_it_is_quiet() -> None:
    debounce = Debounce()
    debounce.rest(5.0)
    debounce.rest(5.05)
    assert not debounce.due(5.1)
    assert debounce.due(5.05 + QUIET_SECONDS) == Due(rest=True)


def test_but_not_for_ever() -> None:
    debounce, now = Debounce(), 5.0
    while not debounce.due(now):
        debounce.rest(now)
        now += 0.01
    assert now == pytest.approx(5.0 + MOST_SECONDS, abs=0.02)


def test_where_nothing_happens_nothing_is_waited_for() -> None:
    assert Debounce().seconds(0.0) is None


CHANGES = st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from([ORDERS, USERS, None]), st.booleans()), max_size=30)


@given(CHANGES)
def test_every_change_is_told_within_its_time_and_nothing_is_left(
    changes: list[tuple[float, Key | None, bool]],
) -> None:
    debounce, now, open_since = Debounce(), 0.0, dict[Key | None, float]()
    for wait, what, fewer in changes:
        now += wait
        for told in _told(debounce.due(now)):
            open_since.pop(told, None)
        open_since.setdefault(what, now)
        if what is None:
            debounce.rest(now)
        else:
            debounce.endpoints(what, now, fewer=fewer)
    while (seconds := debounce.seconds(now)) is not None:
        assert all(now - since <= MOST_SECONDS + 1e-6 for since in open_since.values())
        now += seconds + 1e-9
        for told in _told(debounce.due(now)):
            open_since.pop(told, None)
    assert not open_since


def _told(due: Due) -> set[Key | None]:
    return {*due.services, *([None] if due.rest else [])}


# What is held back


NOW = 100.0


def of_shop(count: int) -> list[Json]:
    """So many Services, with endpoints."""
    return [*(service(f"s{n}") for n in range(count)), *(slice_of(f"s{n}") for n in range(count))]


def many(count: int, *, endpoints: bool = True) -> Mesh:
    """So many Services."""
    found = of_shop(count)
    return mesh(*(found if endpoints else found[:count]))


def count(found: Mesh) -> tuple[int, int]:
    return sum(map(len, found.services.values())), len(found.endpoints)


@pytest.mark.parametrize(
    ("former", "latter", "passed"),
    [
        (many(20), many(10), (10, 10)),
        (many(20), many(9), (20, 20)),
        (many(20), many(0), (20, 20)),
        (many(20), many(20, endpoints=False), (20, 20)),
        (many(10), many(0), (0, 0)),
        (many(0), many(20), (20, 20)),
    ],
    ids=["half", "more", "all", "endpoints", "few", "first"],
)
def test_more_than_half_does_not_go_at_once(former: Mesh, latter: Mesh, passed: tuple[int, int]) -> None:
    guard = Guard()
    guard.passes(former, NOW)
    assert count(guard.passes(latter, NOW)) == passed


@pytest.mark.parametrize("step", [0.0, 0.02, 0.05])
def test_more_than_half_does_not_go_bit_by_bit_within_seconds_either(step: float) -> None:
    guard = Guard()
    for number in range(40, -1, -1):
        told = guard.passes(many(number), 100 + step * (40 - number))
    assert count(told) == (40, 40)
    assert guard.refusals == 1


def test_all_may_go_in_the_course_of_time() -> None:
    guard = Guard()
    for number in range(40, -1, -1):
        told = guard.passes(many(number), 100 + SECONDS * (40 - number))
    assert count(told) == (0, 0)
    assert guard.refusals == 0


def test_what_went_long_ago_does_not_come_back_with_what_is_held() -> None:
    guard = Guard()
    guard.passes(many(40), 100)
    guard.passes(many(30), 101)
    assert count(guard.passes(many(0), 101 + 2 * SECONDS)) == (30, 30)


def test_what_goes_while_the_comparison_moves_on_is_held_back_too() -> None:
    guard = Guard()
    guard.passes(many(40), 100)
    guard.passes(many(40), 100 + 0.8 * SECONDS)
    for number in range(30):
        told = guard.passes(many(40 - number), 100 + 0.9 * SECONDS + 0.01 * number)
    assert count(told) == (40, 40)


@pytest.mark.parametrize("gone", [0.5, 1.0, 2.5, 3.5, 4.5])
def test_what_was_let_go_does_not_come_back(gone: float) -> None:
    """It had come only a moment before, and what is compared with may be older than that."""
    guard = Guard()
    guard.passes(many(30), 0)
    guard.passes(many(70), 3600)
    counts = [count(guard.passes(many(30), 3600 + gone + seconds)) for seconds in (0, 1.5, 2.5, 5, 7.5)]
    assert counts == [counts[0]] * 5


def declaring(count: int, generation: int = 0) -> list[Json]:
    """So many pods."""
    return [pod(f"p{generation}-{n}", upstreams="users.accounts") for n in range(count)]


def test_an_empty_list_of_pods_or_nodes_is_not_believed_and_is_nobodys_business() -> None:
    """A pod that is not known any more would see other Services than it declares."""
    guard = Guard()
    guard.passes(mesh(), 99)
    there = guard.passes(mesh(*declaring(2), node("n0", "a")), 100)
    for seconds in range(10):
        kept = guard.passes(mesh(), 101 + seconds)
        assert (kept.workloads, kept.zones) == (there.workloads, there.zones)
    assert guard.holding == ""


def test_pods_come_and_go_as_they_like() -> None:
    guard = Guard()
    guard.passes(mesh(*declaring(1000)), NOW)
    assert len(guard.passes(mesh(*declaring(1)), NOW).workloads) == 1


def test_pods_that_roll_while_services_are_held_back_do_not_pile_up() -> None:
    guard = Guard()
    guard.passes(mesh(*of_shop(20), *declaring(20)), 100)
    for generation in range(1, 4):
        told = guard.passes(mesh(*declaring(20, generation)), 100 + 10 * generation)
        assert count(told) == (20, 20)
        assert len(told.workloads) == 20
    guard.passes(mesh(*of_shop(20), *declaring(20, 3)), 200)
    assert guard.holding == ""


def test_what_is_held_back_is_said_and_counted_once() -> None:
    guard = Guard()
    guard.passes(many(20), NOW)
    for _ in range(3):
        guard.passes(many(2), NOW)
    assert guard.holding == "18 of 20 Services, 18 of 20 Services with endpoints"
    assert guard.refusals == 1


def test_what_comes_meanwhile_is_told() -> None:
    guard = Guard()
    guard.passes(many(20), NOW)
    held = guard.passes(
        mesh(service("new"), slice_of("new", ["10.9.9.9"]), service("s1"), slice_of("s1", ["10.0.0.7"])),
        NOW,
    )
    assert addresses(held, "new") == ["10.9.9.9"]
    assert addresses(held, "s1") == ["10.0.0.7"]
    assert addresses(held, "s2") == ["10.0.0.1"]


def test_the_operators_word_lets_it_go_once() -> None:
    guard = Guard()
    guard.passes(many(20), NOW)
    guard.passes(many(2), NOW)
    guard.release()
    assert count(guard.passes(many(2), NOW)) == (2, 2)
    assert guard.holding == ""


def test_a_word_that_nobody_waited_for_is_no_word_for_later() -> None:
    guard = Guard()
    guard.passes(many(20), NOW)
    guard.release()
    assert count(guard.passes(many(2), NOW)) == (20, 20)


def test_when_the_world_is_back_nothing_is_held() -> None:
    guard = Guard()
    guard.passes(many(20), NOW)
    guard.passes(many(0), NOW)
    assert count(guard.passes(many(20), NOW)) == (20, 20)
    assert guard.holding == ""


def with_shop(evil: int, shop: int) -> Mesh:
    """So many Services of two namespaces, each at an address of its own."""
    names = [("evil", n, f"10.96.1.{n}") for n in range(evil)] + [("shop", n, f"10.96.2.{n}") for n in range(shop)]
    services = [service(f"s{n}", namespace, clusterIP=ip) for namespace, n, ip in names]
    return mesh(*services, *(slice_of(f"s{n}", namespace=namespace) for namespace, n, _ in names))


def in_shop(found: Mesh) -> tuple[int, int]:
    return len(found.services.get("shop", {})), sum(key.namespace == "shop" for key in found.endpoints)


def test_a_namespace_that_loses_its_own_holds_up_nobody_else() -> None:
    guard = Guard()
    guard.passes(with_shop(evil=25, shop=20), NOW)
    assert in_shop(guard.passes(with_shop(evil=0, shop=19), NOW)) == (19, 19)
    assert guard.holding == "25 of 45 Services, 25 of 45 Services with endpoints"
    assert in_shop(guard.passes(with_shop(evil=0, shop=12), NOW)) == (12, 12)
    assert guard.refusals == 1


def test_what_goes_everywhere_is_held_although_some_was_before() -> None:
    guard = Guard()
    guard.passes(with_shop(evil=25, shop=20), NOW)
    guard.passes(with_shop(evil=0, shop=20), NOW)
    assert count(guard.passes(with_shop(evil=0, shop=0), NOW)) == (45, 45)
    assert guard.holding == "45 of 45 Services, 45 of 45 Services with endpoints"


def test_a_cluster_ip_that_is_another_services_by_now_is_not_the_held_ones() -> None:
    guard = Guard()
    guard.passes(with_shop(evil=25, shop=20), NOW)
    new = service("new", clusterIP="10.96.1.3")
    held = guard.passes(mesh(*(service(f"s{n}", clusterIP=f"10.96.2.{n}") for n in range(20)), new), NOW)
    owners = [str(one.key) for one in held.all_services() if "10.96.1.3" in one.addresses]
    assert owners == ["shop/new"]
    assert guard.passes(held, NOW).services["evil"]["s3"] is held.services["evil"]["s3"]


def at(address: str, pod: str) -> Json:
    return endpoint(address, targetRef={"kind": "Pod", "name": pod})


def with_pods(gone: Iterable[int], *more: Json) -> Mesh:
    """Services of a pod each, without some of them."""
    names = [n for n in range(25) if n not in set(gone)]
    slices = [slice_of(f"s{n}", [at(f"10.0.1.{n}", f"pod-{n}")]) for n in names]
    return mesh(*(service(f"s{n}", clusterIP=f"10.96.1.{n}") for n in range(25)), *slices, *more)


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (at("10.0.1.3", "another"), []),
        (at("10.0.1.3", "pod-3"), ["10.0.1.3"]),
        (at("10.0.1.33", "another"), ["10.0.1.3"]),
        ("10.0.1.3", ["10.0.1.3"]),
    ],
    ids=["another pod has it", "the same pod, of another Service", "nobody has it", "nobody says which pod has it"],
)
def test_what_is_held_back_is_sent_to_no_pod_that_has_the_address_by_now(new: Json | str, kept: list[str]) -> None:
    guard = Guard()
    guard.passes(with_pods([]), NOW)
    for _ in range(2):
        held = guard.passes(with_pods(range(20), service("new", clusterIP="10.96.2.1"), slice_of("new", [new])), NOW)
        assert addresses(held, "s3") == kept
        assert addresses(held, "s4") == ["10.0.1.4"]


def test_pods_of_the_nodes_network_share_its_address_and_keep_their_ports() -> None:
    guard = Guard()
    guard.passes(with_pods([]), NOW)
    beside = slice_of("new", [at("10.0.1.3", "another")], ports=[{"port": 9100}])
    assert addresses(guard.passes(with_pods(range(20), service("new"), beside), NOW), "s3") == ["10.0.1.3"]


# The feed


class Told:
    """Meshes as they come."""

    def __init__(self) -> None:
        self.meshes: list[Mesh] = []
        self._changed = threading.Condition()

    def __call__(self, found: Mesh) -> None:
        with self._changed:
            self.meshes.append(found)
            self._changed.notify_all()

    def until(self, good: Callable[[Mesh], bool]) -> Mesh:
        """The newest one, once it is good."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.meshes and good(self.meshes[-1]), DEADLINE_SECONDS), self.meshes
            return self.meshes[-1]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def feed(told: Told) -> Iterator[Feed]:
    with running(Feed(told)) as made:
        yield made


@contextmanager
def running(feed: Feed) -> Iterator[Feed]:
    thread = threading.Thread(target=feed.run)
    thread.start()
    try:
        yield feed
    finally:
        feed.stop()
        thread.join()


def listed(feed: Feed, *objects: Json) -> None:
    for what in WHAT:
        feed.listed(what, [one for one in objects if one["kind"] == what])


def test_nothing_is_told_before_every_kind_was_listed(feed: Feed, told: Told) -> None:
    for what in WHAT[:-1]:
        feed.listed(what, [])
    assert not feed.ready
    assert told.meshes == []
    feed.listed(WHAT[-1], [])
    told.until(lambda _: True)
    assert feed.ready


def test_what_happens_is_told(feed: Feed, told: Told) -> None:
    listed(feed, service(), slice_of())
    feed.put("EndpointSlice", slice_of(endpoints=["10.0.0.2"]))
    told.until(lambda found: addresses(found) == ["10.0.0.2"])
    feed.remove("EndpointSlice", slice_of())
    told.until(lambda found: addresses(found) == [])
    feed.remove("Service", service())
    told.until(lambda found: found.services == {})


def test_endpoints_that_mean_another_port_by_now_are_told_with_it_and_no_service_besides() -> None:
    """A second port forces a name on the first, and its slices follow within milliseconds."""
    there = world(service(), slice_of())
    there.mesh()
    there.put("Service", service(ports=[{"port": 80, "name": "http"}, {"port": 81, "name": "more"}]))
    there.put("EndpointSlice", slice_of(ports=[{"port": 8080, "name": "http"}]))
    there.put("Service", service("users"))
    there.put("EndpointSlice", slice_of("users"))
    found = there.mesh(there.touched, rest=False)
    (orders,) = found.all_services()
    assert [one.address for one in found.endpoints_of(orders, orders.ports[0])] == ["10.0.0.1"]
    assert [one.key.name for one in there.mesh().all_services()] == ["orders", "users"]


def test_a_list_is_the_truth_about_what_was_missed(feed: Feed, told: Told) -> None:
    listed(feed, service(), service("gone"))
    told.until(lambda found: len(found.services["shop"]) == 2)
    feed.listed("Service", [service()])
    told.until(lambda found: list(found.services["shop"]) == ["orders"])


def test_the_same_again_is_told_to_nobody(feed: Feed, told: Told) -> None:
    listed(feed, service(), slice_of())
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    before = len(told.meshes)
    listed(feed, service(), slice_of())
    feed.put("Service", service("new"))
    told.until(lambda found: "new" in found.services["shop"])
    assert len(told.meshes) == before + 1


def test_a_storm_is_told_in_few_portions_and_ends_right(feed: Feed, told: Told) -> None:
    listed(feed, service(), slice_of())
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    before, began = len(told.meshes), monotonic()
    for number in range(2000):  # each takes an endpoint away
        feed.put("EndpointSlice", slice_of(endpoints=["10.0.0.1", f"10.0.{number // 250}.{number % 250 + 2}"]))
        time.sleep(0.0001)  # the feed's thread has its turn
    told.until(lambda found: addresses(found) == ["10.0.0.1", "10.0.7.251"])
    assert len(told.meshes) - before <= (monotonic() - began) / FEWER_SECONDS + 1


def test_the_operators_word_reaches_the_guard(feed: Feed, told: Told) -> None:
    listed(feed, *(service(f"s{n}") for n in range(20)))
    told.until(lambda found: count(found)[0] == 20)
    feed.listed("Service", [])
    told.until(lambda _: bool(feed.holding))
    feed.release()
    told.until(lambda found: count(found)[0] == 0)
    assert feed.refusals == 1


class Failing(Told):
    """So often, it raises."""

    def __init__(self, times: int, bug: type[BaseException] = ZeroDivisionError) -> None:
        super().__init__()
        self.times, self.bug = times, bug

    def __call__(self, found: Mesh) -> None:
        if self.times:
            self.times -= 1
            raise self.bug
        super().__call__(found)


def test_a_turn_that_fails_is_told_of_and_all_is_told_when_all_was_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.xds.feed.BACKOFF_SECONDS", (0.05, 0.1))
    told, bugs = Failing(0), list[Exception]()
    with running(Feed(told, on_failure=bugs.append)) as feed:
        there = [made(f"s{n}") for made in (service, slice_of) for n in range(20)]
        listed(feed, *there)
        told.until(lambda found: count(found)[0] == 20)
        told.times, before = 1, len(told.meshes)
        feed.put("Service", service("new"))
        eventually(lambda: feed.wanted == set(WHAT), "all kinds are to be listed anew")
        assert [type(bug) for bug in bugs] == [ZeroDivisionError]
        assert (feed.healthy, feed.ready) == (True, False)
        listed(feed, *there, service("new"))
        told.until(lambda found: count(found)[0] == 21)
        assert feed.wanted == set()
        assert [count(found)[0] for found in told.meshes[before:]] == [
            21
        ]  # and nothing before, of what is known by then
        assert feed.holding == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_feed_whose_thread_dies_all_the_same_is_not_healthy() -> None:
    with running(Feed(Failing(1, SystemExit))) as feed:
        assert feed.healthy
        listed(feed, service())
        eventually(lambda: not feed.healthy, "its thread is dead")


def test_a_feed_that_takes_no_turn_any_more_is_not_healthy() -> None:
    now, stuck = [0.0], threading.Event()

    def waits(_found: Mesh) -> None:
        stuck.wait(DEADLINE_SECONDS)

    with running(Feed(waits, lambda: now[0])) as feed:
        listed(feed, service())
        now[0] += STUCK_SECONDS - 1
        assert feed.healthy
        now[0] += 2
        eventually(lambda: not feed.healthy, "it is stuck")
        stuck.set()
        eventually(lambda: feed.healthy, "it goes on")


@pytest.mark.parametrize("what", WHAT)
def test_a_bug_of_ours_in_reading_one_object_is_its_own_problem(what: What, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"controlplane.xds.world.reading.{READERS[what]}", fails)
    found = mesh({"kind": what, "metadata": {"name": "bad", "namespace": "shop"}})
    (problem,) = found.problems
    assert problem.about == f"{what} shop/bad"
    assert problem.message == "cannot be read, by a fault of the control plane: ZeroDivisionError"


READERS = {"Service": "service", "EndpointSlice": "endpoint_slice", "Pod": "workload", "Node": "node"}


def test_an_object_that_cannot_be_read_is_told_and_does_not_end_the_feed(feed: Feed, told: Told) -> None:
    listed(feed, service(), {"kind": "Service", "metadata": {"name": "bad", "namespace": "shop"}, "spec": 3})
    found = told.until(lambda _: True)
    assert [problem.about for problem in found.problems] == ["Service shop/bad"]
    assert list(found.services["shop"]) == ["orders"]


# From disk


def write(place: Path, *objects: Json) -> None:
    """As an editor does it: another file takes the place."""
    fresh = place.with_suffix(".new")
    fresh.write_text(yaml.safe_dump_all(objects))
    fresh.rename(place)


@pytest.fixture
def disk(tmp_path: Path, feed: Feed) -> Iterator[list[Exception]]:
    """The source that reads `tmp_path`, and what it could not read."""
    failures: list[Exception] = []
    source = Disk(tmp_path, feed, failures.append)
    write(tmp_path / "cluster.yaml", service(), slice_of())
    source.start()
    yield failures
    source.stop()


def test_a_file_that_changes_is_read_anew(tmp_path: Path, disk: list[Exception], told: Told) -> None:
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    write(tmp_path / "cluster.yaml", service(), slice_of(endpoints=["10.0.0.2"]))
    told.until(lambda found: addresses(found) == ["10.0.0.2"])
    write(tmp_path / "more.yaml", {"kind": "List", "items": [service("new")]})
    told.until(lambda found: set(found.services["shop"]) == {"orders", "new"})
    (tmp_path / "more.yaml").unlink()
    told.until(lambda found: set(found.services["shop"]) == {"orders"})


def test_a_file_that_is_no_yaml_changes_nothing_and_is_named(tmp_path: Path, disk: list[Exception], told: Told) -> None:
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    (tmp_path / "bad.yaml").write_text("a: [")
    write(tmp_path / "cluster.yaml", service())
    deadline = monotonic() + DEADLINE_SECONDS
    while not disk and monotonic() < deadline:
        threading.Event().wait(0.01)
    assert "bad.yaml: is no YAML" in str(disk[0])
    assert addresses(told.meshes[-1]) == ["10.0.0.1"]


def test_what_cannot_be_read_is_told_once_until_it_can_be_and_counts_as_silence(
    tmp_path: Path, disk: list[Exception], feed: Feed, told: Told
) -> None:
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    bad = tmp_path / "bad.yaml"
    for times in (1, 2):
        bad.write_text("a: [")
        eventually(lambda: feed.silence()["Service"] > 5 * LOOK_SECONDS, "nothing is heard")
        assert len(disk) == times
        bad.unlink()
        eventually(lambda: feed.silence()["Service"] < 2 * LOOK_SECONDS, "it is read again")


def test_a_file_of_more_than_32_mib_is_named_and_not_read(tmp_path: Path) -> None:
    place = tmp_path / "cluster.yaml"
    place.write_text("a: 1\n" * (MAX_BYTES // 5 + 1))
    with pytest.raises(DiskError, match=r"cluster\.yaml: has more than 32 MiB"):
        read(place)


@pytest.mark.parametrize(
    "whole",
    [
        {"kind": "List", "items": [service()]},
        {"kind": "ServiceList", "apiVersion": "v1", "items": [{"metadata": {"name": "orders"}, "spec": {}}]},
        [service()],
    ],
    ids=["List", "ServiceList", "array"],
)
def test_objects_are_read_however_they_are_listed(tmp_path: Path, whole: Json) -> None:
    (tmp_path / "all.json").write_text(json.dumps(whole))
    assert [one["metadata"]["name"] for one in read(tmp_path)["Service"]] == ["orders"]


def test_what_a_mounted_config_map_holds_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_28").mkdir()
    write(tmp_path / "..2026_11_28" / "all.yaml", service())
    (tmp_path / "..data").symlink_to("..2026_11_28")
    (tmp_path / "all.yaml").symlink_to("..data/all.yaml")
    assert len(read(tmp_path)["Service"]) == 1


def test_a_service_of_another_api_is_none(tmp_path: Path) -> None:
    write(tmp_path / "knative.yaml", service() | {"apiVersion": "serving.knative.dev/v1"})
    assert read(tmp_path)["Service"] == []


def test_a_file_with_what_is_no_kind_does_not_end_the_source(tmp_path: Path, disk: list[Exception], told: Told) -> None:
    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    write(tmp_path / "bad.yaml", {"kind": []}, service("good"))
    told.until(lambda found: set(found.services["shop"]) == {"orders", "good"})
    assert disk == []


def test_a_bug_of_ours_in_reading_files_is_told_and_the_next_change_is_read(
    tmp_path: Path, disk: list[Exception], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_place: Path) -> None:
        raise ZeroDivisionError

    told.until(lambda found: addresses(found) == ["10.0.0.1"])
    with monkeypatch.context() as broken:
        broken.setattr("controlplane.xds.disk.read", fails)
        write(tmp_path / "more.yaml", service("new"))
        eventually(lambda: disk, "it is told")
    write(tmp_path / "more.yaml", service("newer"))
    told.until(lambda found: set(found.services["shop"]) == {"orders", "newer"})
    assert [type(error) for error in disk] == [ZeroDivisionError]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"missing\.yaml: No such file"):
        read(tmp_path / "missing.yaml")


LEVELS = "".join(f"- &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10))
BOMBS = {
    "lists of lists": f"x:\n- &l0 [{', '.join('x' * 10)}]\n{LEVELS}",
    "Lists of Lists": "\n---\n".join(
        ["kind: List\nitems: [&l0 {kind: Service}, "]
        + [f"&l{n} {{kind: List, items: [{', '.join([f'*l{n - 1}'] * 10)}]}}, " for n in range(1, 10)]
    ).replace("\n---\n", "")
    + "]",
    "a List that holds itself": "&a {kind: List, items: [*a]}",
    "a map that holds itself": "kind: Service\nspec: &a {ports: *a}",
    "10,000 levels": "[" * 10_000,
    "400 levels": "{kind: Service, spec: " + "[" * 400 + "]" * 400 + "}",
    "a number of 10,000 digits": "kind: Service\nspec: " + "9" * 10_000,
    "keys that are no text": "kind: Service\nmetadata: {1: 2, null: 3, [a]: b}",
    "a kind that is a list": "kind: []",
    "a kind that is a map": "{kind: List, items: [{kind: {a: b}}]}",
    "a tag": "kind: Service\nmetadata: !!python/object/apply:os.system [true]",
    "bytes": b"\x00\xff\xfe\x80" * 100,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_file_that_is_more_than_it_seems_is_named_or_holds_nothing(tmp_path: Path, text: str | bytes) -> None:
    place = tmp_path / "cluster.yaml"
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = process_time()
    said = outcome(place)
    assert process_time() - before < 2
    named = said.startswith((f"{place}: is no YAML: ", f"{place}: is nested too deeply"))
    assert said in ("0 objects", "1 objects") or (named and len(said) < 500)


def outcome(place: Path) -> str:
    try:
        return f"{sum(map(len, read(place).values()))} objects"
    except DiskError as error:
        return str(error)


def test_folders_that_lead_into_each_other_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    (tmp_path / "in" / "itself.yaml").symlink_to("itself.yaml")
    write(tmp_path / "in" / "cluster.yaml", service())
    assert len(read(tmp_path)["Service"]) == 1
