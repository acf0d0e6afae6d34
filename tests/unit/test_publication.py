"""Which bootstrap belongs where: each rule by a table, and all of them together against a model of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controlplane.publication import (
    LEFT_FOR,
    Archive,
    Archived,
    AskForPods,
    Forget,
    Observed,
    Publish,
    Record,
    Remove,
    Step,
    Write,
    plan,
)

NOW = datetime(2026, 11, 27, tzinfo=UTC)
RETENTION = timedelta(days=30)
LONG_AGO = NOW - RETENTION - timedelta(seconds=1)


def archive(**ages: datetime) -> dict[str, Archived]:
    return {name: Archived({}, at) for name, at in ages.items()}


def steps(
    kept: Mapping[str, Archived],
    announced: tuple[str, ...] = (),
    namespaces: Mapping[str, datetime | None] | None = None,
    opted_in: tuple[str, ...] = ("shop",),
    settled: tuple[tuple[str, str], ...] = (("shop", "new"), ("shop", "old")),
    in_use: tuple[tuple[str, str], ...] | None = None,
) -> tuple[Step, ...]:
    record = Record(frozenset(announced), {"shop": None} if namespaces is None else namespaces)
    pods = None if in_use is None else frozenset(in_use)
    return plan(Observed(kept, record, frozenset(opted_in), frozenset(settled), pods), "new", RETENTION, NOW)


def test_a_new_content_is_archived_before_anything_else() -> None:
    assert steps({}) == (Archive("new"),)


def test_that_a_content_is_current_is_noted_every_hour() -> None:
    assert steps(archive(new=NOW - timedelta(minutes=59)), ("new",)) == ()
    assert steps(archive(new=NOW - timedelta(minutes=61)), ("new",)) == (Archive("new"),)


def test_a_clock_that_was_ahead_is_corrected() -> None:
    assert steps(archive(new=NOW + timedelta(days=900)), ("new",)) == (Archive("new"),)


def test_a_namespace_is_written_down_before_anything_is_put_there() -> None:
    found = steps(archive(new=NOW), namespaces={}, settled=())
    assert found == (Write(Record(frozenset(), {"shop": None})),)


def test_every_kept_content_goes_to_every_opted_in_namespace_the_newest_first() -> None:
    kept = archive(old=NOW - timedelta(days=3), new=NOW)
    namespaces = {"books": None, "shop": None}
    found = steps(kept, (), namespaces, ("shop", "books"), settled=(("shop", "old"),))
    assert found == (Publish("books", "new"), Publish("shop", "new"), Publish("books", "old"))


def test_what_is_not_everywhere_is_not_announced() -> None:
    assert not any(isinstance(step, Write) for step in steps(archive(new=NOW), settled=()))


def test_what_is_everywhere_is_announced() -> None:
    assert steps(archive(new=NOW)) == (Write(Record(frozenset({"new"}), {"shop": None})),)


def test_with_nothing_left_to_do_nothing_is_done() -> None:
    assert steps(archive(new=NOW, old=NOW), ("new", "old")) == ()


def test_what_is_announced_but_not_archived_is_taken_back() -> None:
    assert steps(archive(new=NOW), ("new", "lost")) == (Write(Record(frozenset({"new"}), {"shop": None})),)


def test_before_anything_is_removed_pods_are_asked_for() -> None:
    assert steps(archive(new=NOW, old=LONG_AGO), ("new", "old")) == (AskForPods(),)


def test_a_content_that_a_pod_names_anywhere_stays_everywhere() -> None:
    assert steps(archive(new=NOW, old=LONG_AGO), ("new", "old"), in_use=(("elsewhere", "old"),)) == ()


def test_a_content_is_taken_back_before_it_is_removed() -> None:
    found = steps(archive(new=NOW, old=LONG_AGO), ("new", "old"), in_use=())
    assert found == (Write(Record(frozenset({"new"}), {"shop": None})),)


def test_a_content_leaves_the_archive_after_its_copies() -> None:
    found = steps(archive(new=NOW, old=LONG_AGO), ("new",), in_use=())
    assert found == (Remove("shop", "old"), Forget("old"))


def test_a_namespace_that_opted_out_keeps_its_copies_for_a_while() -> None:
    left = {"gone": None, "shop": None}
    assert steps(archive(new=NOW), ("new",), left) == (Write(Record(frozenset({"new"}), {"shop": None, "gone": NOW})),)
    assert steps(archive(new=NOW), ("new",), {"gone": NOW - LEFT_FOR, "shop": None}) == ()


def test_a_namespace_that_opted_out_is_cleared_and_then_forgotten() -> None:
    left = {"gone": NOW - LEFT_FOR - timedelta(seconds=1), "shop": None}
    found = steps(archive(new=NOW, old=NOW), ("new", "old"), left, in_use=())
    rest = Write(Record(frozenset({"new", "old"}), {"shop": None}))
    assert found == (Remove("gone", "new"), Remove("gone", "old"), rest)


def test_a_namespace_that_opted_out_keeps_its_copies_while_a_pod_runs_there() -> None:
    left = {"gone": NOW - LEFT_FOR - timedelta(seconds=1), "shop": None}
    assert steps(archive(new=NOW), ("new",), left, in_use=(("gone", "new"),)) == ()


@dataclass(slots=True)
class Replica:
    """A control plane: its content, what it knows that the cluster does not, and a plan that it may be in."""

    current: str
    settled: set[tuple[str, str]] = field(default_factory=set)
    pods: frozenset[tuple[str, str]] | None = None
    doing: list[Step] = field(default_factory=list)
    read: Record = field(default_factory=Record)


class Cluster(RuleBasedStateMachine):
    """Replicas of different versions that crash anywhere, namespaces that come and go, webhooks, pods, a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.archive: dict[str, Archived] = {}
        self.record = Record()
        self.copies: set[tuple[str, str]] = set()
        self.opted_in: set[str] = {"shop"}
        self.pods: set[tuple[str, str]] = set()
        self.webhook = ""  # the content that it names; ready since that was announced
        self.replicas = [Replica("a"), Replica("a")]

    @rule(which=st.integers(0, 1))
    def step(self, which: int) -> None:
        replica = self.replicas[which]
        if replica.doing:
            self._do(replica, replica.doing.pop(0))
            return
        replica.settled = {pair for pair in replica.settled if pair[0] in self.opted_in}
        replica.read = self.record
        observed = Observed(
            dict(self.archive), self.record, frozenset(self.opted_in), frozenset(replica.settled), replica.pods
        )
        replica.pods = None
        replica.doing = list(plan(observed, replica.current, RETENTION, self.now))

    @rule(which=st.integers(0, 1))
    def steps(self, which: int) -> None:
        for _ in range(30):
            self.step(which)
            self.no_running_pod_lost_its_bootstrap()

    def _do(self, replica: Replica, step: Step) -> None:
        match step:
            case Archive(content):
                self.archive[content] = Archived({}, self.now)
            case Write(record):
                if self.record is replica.read:
                    self.record = replica.read = record
                else:
                    replica.doing.clear()
            case Publish(namespace, content):
                self.copies.add((namespace, content))
                replica.settled.add((namespace, content))
            case AskForPods():
                replica.pods = frozenset(self.pods)
            case Remove(namespace, content):
                self.copies.discard((namespace, content))
                replica.settled.discard((namespace, content))
            case Forget(content):
                self.archive.pop(content, None)

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        self.replicas[which] = Replica(self.replicas[which].current)

    @rule(which=st.integers(0, 1), content=st.sampled_from("ab"))
    def upgrade_or_undo(self, which: int, content: str) -> None:
        self.replicas[which] = Replica(content)

    @rule(namespace=st.sampled_from(["shop", "books"]))
    def opt_in(self, namespace: str) -> None:
        self.opted_in.add(namespace)

    @rule(namespace=st.sampled_from(["shop", "books"]))
    def opt_out(self, namespace: str) -> None:
        self.opted_in.discard(namespace)

    @rule(content=st.sampled_from("ab"))
    def start_webhook(self, content: str) -> None:
        if content in self.record.announced:
            self.webhook = content

    @precondition(lambda self: self.webhook)
    @rule(namespace=st.sampled_from(["shop", "books"]))
    def create_pod(self, namespace: str) -> None:
        """In a namespace that a control plane has had the time to see."""
        seen = any((namespace, self.webhook) in replica.settled for replica in self.replicas)
        if namespace in self.opted_in and self.webhook in self.record.announced and seen:
            self.pods.add((namespace, self.webhook))

    @rule(pod=st.sampled_from([(namespace, content) for namespace in ("shop", "books") for content in "ab"]))
    def delete_pods(self, pod: tuple[str, str]) -> None:
        self.pods.discard(pod)

    @rule(hours=st.sampled_from([1, 2, 24, 800]))
    def time_goes_by(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for replica in self.replicas:  # no step takes an hour
            replica.doing.clear()

    @invariant()
    def what_is_announced_is_archived(self) -> None:
        assert self.record.announced <= self.archive.keys()

    @invariant()
    def no_running_pod_lost_its_bootstrap(self) -> None:
        assert self.pods <= self.copies

    @invariant()
    def every_copy_is_in_a_namespace_that_is_written_down(self) -> None:
        assert {namespace for namespace, _ in self.copies} <= self.record.namespaces.keys()

    def teardown(self) -> None:
        """Left alone, one replica brings everything where it belongs and then stops."""
        replica = self.replicas[0] = Replica(self.replicas[0].current)
        self.replicas[1] = replica
        for _ in range(500):
            self.step(0)
            if not replica.doing and not self._pending(replica):
                break
        else:
            raise AssertionError("never done")
        assert {(name, content) for name in self.opted_in for content in self.archive} <= self.copies
        assert self.record.announced == self.archive.keys()

    def _pending(self, replica: Replica) -> bool:
        observed = Observed(
            self.archive, self.record, frozenset(self.opted_in), frozenset(replica.settled), replica.pods
        )
        return bool(plan(observed, replica.current, RETENTION, self.now))


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
