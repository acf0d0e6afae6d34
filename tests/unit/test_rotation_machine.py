"""rotation: whatever happens to processes, clocks and objects, no step of ours leaves a server untrusted.

The machine drives the real plan and the real steps against a cluster in memory. Around it: API servers and pods that
see a published trust late, servers that pick up a certificate late, replicas that read, act and crash at any moment
between each other, clocks that jump, and people who delete and edit.
"""

import base64
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from certs import chain
from certs.authority import issue_ca
from certs.bundle import Validity
from certs.kube import ConflictError
from certs.objects import CONFIG_MAP_KEY, CONFIGURATIONS, Installation, Target
from certs.reading import Object, Reading, data, version
from certs.rehearsal import Rehearsal
from certs.rotation import Lifetimes
from certs.rounds import Keeper
from certs.state import decode, decode_leaf
from certs.steps import Step

START = datetime(2026, 11, 25, 12, tzinfo=UTC)
INSTALLATION = Installation()
LIFETIMES = Lifetimes(ca=timedelta(days=40), leaf=timedelta(days=10))
LAG = LIFETIMES.publication.total_seconds() - 1  # the longest that anybody may take to see what was published
REPLICAS = st.integers(0, 2)
SECRETS = (INSTALLATION.authority, *INSTALLATION.leaves)
NAMESPACES = ("shop", "late")
MEDDLES = (
    "delete_a_secret",
    "spoil_a_secret",
    "save_the_ca",
    "restore_the_ca",
    "edit_a_trust",
    "delete_a_config_map",
    "opt_in_or_out",
)
FOREIGN = issue_ca("somebody else's", Validity.starting(START, timedelta(days=3650))).certificate


@dataclass
class Late:
    """Sees each state of an object at some time, in order, at the latest LAG seconds after it came to be.

    An API server with its caBundle, a pod with its trust, or a server with its certificate.
    """

    target: Target
    current: frozenset[bytes] = frozenset()
    coming: list[tuple[float, frozenset[bytes]]] = field(default_factory=list)  # since when, what

    def sync(self) -> None:
        _, self.current = self.coming.pop(0)


def content(target: Target, found: Object | None) -> frozenset[bytes]:
    """What whoever reads this object goes by; nothing if it is of no use, in which case he keeps what he had."""
    if found is None:
        return frozenset()
    match target.kind:
        case "Secret":
            bundle, _ = decode_leaf(data(found))
            return frozenset([bundle.certificate] if bundle else [])
        case "ConfigMap":
            return frozenset(chain.read((found.get("data") or {}).get(CONFIG_MAP_KEY, "").encode()))
        case _:
            texts = [webhook["clientConfig"].get("caBundle", "") for webhook in found["webhooks"]]
            return frozenset.intersection(*(frozenset(chain.read(base64.b64decode(text))) for text in texts))


@dataclass
class Replica:
    """One process of ours, at any point of its work."""

    keeper: Keeper
    half: Reading | None = None
    reading: Reading | None = None
    steps: list[Step] = field(default_factory=list)


class TwoReads(Rehearsal):
    """The same cluster for everybody, except that a reading may be begun before the CA Secret is read."""

    before: Reading | None = None

    def read(self) -> Reading:
        now = super().read()
        if self.before is None:
            return now
        half, self.before = self.before, None
        secret = {target: one for target, one in now.found.items() if target == INSTALLATION.authority}
        return Reading(half.at, {t: o for t, o in half.found.items() if t not in secret} | secret, half.namespaces)


class Rotation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0  # of everybody's own clock, which only goes on
        self.jumped = timedelta(0)
        self.names = itertools.count()
        self.established = False
        self.backup: Object | None = None
        configurations = {
            one: {"metadata": {"uid": one.kind}, "webhooks": [{"clientConfig": {}}] * 2} for one in CONFIGURATIONS
        }
        self.cluster = TwoReads(Reading(START, configurations, {"shop": START - timedelta(days=9)}))
        self.replicas = [self.fresh() for _ in range(3)]
        self.viewers = [Late(one) for one in CONFIGURATIONS for _ in range(2)]
        self.servers = [Late(one) for one in INSTALLATION.leaves for _ in range(2)]
        self.seen: dict[Target, str] = {}

    def fresh(self) -> Replica:
        return Replica(Keeper(self.cluster, INSTALLATION, LIFETIMES, lambda: self.time, lambda: str(next(self.names))))

    @initialize()
    def starts(self) -> None:
        self.cluster.at = self.now

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.time) + self.jumped

    # What everybody sees.

    def good(self) -> bool:
        """Everybody trusts every server."""
        served = [server.current for server in self.servers]
        return all(served) and all(
            any(chain.vouches(ca, leaf, self.now) for ca in viewer.current)
            for viewer in self.viewers
            for (leaf,) in served
        )

    def sound(self) -> bool:
        """Everybody does, and will: no certificate that a server is about to pick up is out of its time."""
        leaves = {leaf for one in self.servers for _, leaves in one.coming for leaf in leaves}
        leaves |= {leaf for one in INSTALLATION.leaves for leaf in content(one, self.cluster.found.get(one))}
        return self.good() and all(chain.facts(leaf).validity.holds(self.now) for leaf in leaves)

    @contextmanager
    def ours(self, what: str) -> Iterator[None]:
        """Something that must not take away the trust."""
        yield
        assert self.good() or not self.established, f"{what} at {self.time:g} s ({self.now}) left a server untrusted"
        self.take_stock()

    def take_stock(self) -> None:
        """Trust is established when everybody has seen everything; it may end with the time, not by what we do."""
        current = not any(one.coming for one in self.viewers + self.servers)
        self.established = self.good() and (self.established or current)

    def spread(self) -> None:
        """Everybody is about to see what changed; a pod that starts in a namespace sees it at once."""
        for target, found in self.cluster.found.items():
            if target == INSTALLATION.authority or self.seen.get(target) == version(found):
                continue
            self.seen[target] = version(found)
            what = content(target, found)
            if target.kind == "ConfigMap" and what and not any(one.target == target for one in self.viewers):
                self.viewers += [Late(target, what), Late(target, what)]
            for one in self.viewers + self.servers:
                if one.target == target and (what or target.kind.endswith("Configuration")):
                    one.coming.append((self.time, what))

    def overdue(self, until: float) -> Late | None:
        waiting = [one for one in self.viewers + self.servers if one.coming and one.coming[0][0] + LAG <= until]
        return min(waiting, key=lambda one: one.coming[0][0], default=None)

    @rule(number=st.integers(0, 20))
    def somebody_sees_the_next_state(self, number: int) -> None:
        waiting = [one for one in self.viewers + self.servers if one.coming]
        if waiting:
            with self.ours("seeing the next state"):
                waiting[number % len(waiting)].sync()

    @rule(seconds=st.one_of(st.floats(0.1, 300), st.floats(1, 15).map(lambda days: days * 86400)))
    def time_passes(self, seconds: float) -> None:
        end = self.time + seconds
        while late := self.overdue(end):
            self.time = max(self.time, late.coming[0][0] + LAG)
            self.take_stock()  # something may just have ended
            with self.ours(f"that {late.target} was seen"):
                late.sync()
        self.time = end
        self.cluster.at = self.now
        self.take_stock()

    @rule(minutes=st.integers(1, 6), replica=REPLICAS)
    def minutes_pass_as_usual(self, minutes: int, replica: int) -> None:
        for _ in range(minutes):
            self.a_replica_settles(replica)
            self.time_passes(60)

    @rule(days=st.integers(1, 12), replica=REPLICAS)
    def days_pass_as_usual(self, days: int, replica: int) -> None:
        for _ in range(days):
            self.a_replica_settles(replica)
            self.time_passes(86400)

    # What our processes do.

    @rule(number=REPLICAS)
    def a_replica_begins_to_read(self, number: int) -> None:
        self.replicas[number].half = self.cluster.read()

    @rule(number=REPLICAS)
    def a_replica_plans(self, number: int) -> None:
        replica = self.replicas[number]
        self.cluster.before, replica.half = replica.half, None
        replica.reading, _, steps = replica.keeper.look()
        replica.steps = list(steps)

    @rule(number=REPLICAS, count=st.integers(1, 9))
    def a_replica_acts(self, number: int, count: int) -> None:
        for _ in range(count):
            self.act(self.replicas[number])

    @rule(number=REPLICAS)
    def a_replica_settles(self, number: int) -> None:
        replica = self.replicas[number]
        for _ in range(12):
            self.a_replica_plans(number)
            if not replica.steps:
                return
            while replica.steps:
                self.act(replica)
        raise AssertionError(f"there is no end to it: {replica.keeper.look()[2]}")

    def act(self, replica: Replica) -> None:
        if not replica.steps or replica.reading is None:
            return
        step = replica.steps.pop(0)
        with self.ours(f"{step.verb} {step.target}"):
            with suppress(ConflictError):
                replica.keeper.act(step, replica.reading)
            self.spread()

    @rule(number=REPLICAS)
    def a_replica_crashes(self, number: int) -> None:
        self.replicas[number] = self.fresh()

    # What people and machines do to us.

    @rule(days=st.sampled_from([-90, -9, -0.1, -0.001, 0.001, 0.1, 9, 90]))
    def the_clock_jumps(self, days: float) -> None:
        self.jumped += timedelta(days=days)
        self.cluster.at = self.now
        self.established = self.established and self.sound()

    @rule(number=st.integers(0, 3))
    def a_server_starts_anew(self, number: int) -> None:
        """It waits for a certificate that it can serve."""
        server = self.servers[number]
        if what := content(server.target, self.cluster.found.get(server.target)):
            with self.ours("the start of a server"):
                server.current, server.coming = what, []

    @rule(meddle=st.sampled_from(MEDDLES), number=st.integers(0, 9))
    def somebody_meddles(self, meddle: str, number: int) -> None:
        getattr(self, meddle)(number)

    def delete_a_secret(self, number: int) -> None:
        self.cluster.found.pop(SECRETS[number % 3], None)

    def spoil_a_secret(self, number: int) -> None:
        if read := self.cluster.found.get(SECRETS[number % 3]):
            kept = {name: value for name, value in data(read).items() if number < 5 and not name.endswith(".key")}
            self.cluster.fill(SECRETS[number % 3], read, kept | {"tls.crt": b"rubbish", "ca.key": b"rubbish"})
            self.spread()

    def save_the_ca(self, _: int) -> None:
        self.backup = self.cluster.read().found.get(INSTALLATION.authority)

    def restore_the_ca(self, _: int) -> None:
        """Of a time when another one was in use, perhaps."""
        if self.backup and (read := self.cluster.found.get(INSTALLATION.authority)):
            self.cluster.fill(INSTALLATION.authority, read, data(self.backup))

    def edit_a_trust(self, number: int) -> None:
        targets = [one for one in self.cluster.found if one.kind != "Secret"]
        target = targets[number % len(targets)]
        self.cluster.publish(target, self.cluster.found[target], [b"", FOREIGN, b"rubbish"][number % 3])
        self.spread()
        self.established = False  # until everybody has seen how it was healed

    def delete_a_config_map(self, number: int) -> None:
        """Pods that run keep what they have; others wait for it to come back."""
        name = NAMESPACES[number % 2]
        self.cluster.found.pop(INSTALLATION.config_map(name), None)
        self.abandon(name)

    def opt_in_or_out(self, number: int) -> None:
        name = NAMESPACES[number % 2]
        if self.cluster.namespaces.pop(name, None) is None:
            self.cluster.namespaces[name] = START - timedelta(days=9)
        self.abandon(name)

    def abandon(self, name: str) -> None:
        """Nothing is published in a namespace that neither opts in nor has our ConfigMap any more."""
        target = INSTALLATION.config_map(name)
        if name not in self.cluster.namespaces and target not in self.cluster.found:
            self.viewers = [one for one in self.viewers if one.target != target]

    # What must hold.

    @invariant()
    def the_key_of_a_retired_ca_is_gone(self) -> None:
        secret = self.cluster.found.get(INSTALLATION.authority)
        authority, _ = decode(data(secret) if secret else {})
        keys = [value for one in self.cluster.found.values() if "webhooks" not in one for value in secrets_of(one)]
        for retired in authority.retired:
            assert not any(chain.pair(retired.certificate, key) for key in keys)

    def teardown(self) -> None:
        """Left alone, it heals, and then leaves everything alone."""
        for replica in self.replicas:
            replica.half = None
        for _ in range(8):
            self.a_replica_settles(0)
            self.time_passes(60)
        assert self.good()
        assert self.established
        before = {target: version(found) for target, found in self.cluster.found.items()}
        self.a_replica_settles(1)
        self.a_replica_settles(0)
        assert before == {target: version(found) for target, found in self.cluster.found.items()}


def secrets_of(found: Object) -> Iterator[bytes]:
    for text in (found.get("data") or {}).values():
        try:
            yield base64.b64decode(text, validate=True)
        except ValueError:
            continue


Rotation.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRotation = Rotation.TestCase
