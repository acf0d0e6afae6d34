"""Read, plan, act, and read again until there is nothing left to do. The only place that makes keys and stores them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from certs import objects
from certs.authority import issue_ca, issue_leaf
from certs.kube import ConflictError, KubeError
from certs.objects import Installation, Target
from certs.reading import Memory, Object, Reading, observe
from certs.rotation import Lifetimes, plan
from certs.state import Observed, encode, render
from certs.steps import Change, Create, Introduce, Issue, Publish, Step

MAX_ROUNDS = 20  # of one `settle`; a first installation takes five, and each race that is lost one more

Tell = Callable[[Step, KubeError | None], None]


class Store(Protocol):
    """What is asked of the cluster: `kube.Kube`, or a model of it. Every method may raise KubeError."""

    def read(self) -> Reading:
        """All objects that are ours, as they are now."""

    def create(self, target: Target) -> None:
        """Makes it be there, if only empty."""

    def fill(self, target: Target, read: Object, content: dict[str, bytes]) -> None:
        """Replaces the data of what was read. Raises ConflictError if it is another by now."""

    def publish(self, target: Target, read: Object, text: bytes) -> None:
        """Lets these certificates, in PEM, be what is trusted there. Raises ConflictError as `fill` does."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """One process that keeps certificates valid. `clock`: seconds that only ever go on; `chance`: a name for a CA."""

    store: Store
    installation: Installation
    lifetimes: Lifetimes
    clock: Callable[[], float]
    chance: Callable[[], str]
    memory: Memory = field(default_factory=Memory)

    def look(self) -> tuple[Reading, Observed, tuple[Step, ...]]:
        """What is there, and what is to be done. Raises KubeError."""
        reading = self.store.read()
        observed = observe(reading, self.installation, self.memory, self.clock())
        return reading, observed, plan(observed, reading.at, self.lifetimes, self.installation.authority)

    def act(self, step: Step, reading: Reading) -> None:
        """Does one step to what was read. Raises KubeError; ConflictError if that is not there any more."""
        read = reading.found.get(step.target, {})
        match step:
            case Create():
                self.store.create(step.target)
            case Publish():
                self.store.publish(step.target, read, render(step.certificates))
            case Change():
                self.store.fill(step.target, read, encode(step.authority))
            case Introduce():
                ca = issue_ca(f"envoy-sidecar CA {self.chance()}", step.validity)
                self.store.fill(step.target, read, encode(replace(step.authority, next=ca)))
            case Issue():
                leaf = issue_leaf(step.ca, step.names, step.validity)
                pair = {objects.CERTIFICATE: leaf.certificate, objects.KEY: leaf.key}
                self.store.fill(step.target, read, pair)


@dataclass(frozen=True, slots=True)
class Settled:
    """How it ended; `failures` are those of steps, by what they were for."""

    at: datetime
    observed: Observed
    failures: dict[Target, KubeError]


def settle(keeper: Keeper, tell: Tell) -> Settled:
    """Does all that is to be done now, telling of each step. A step that fails is not tried again this time.

    Of what somebody else undoes each time, it is told at last that it is `unsettled`. Raises KubeError if the cluster
    cannot be read.
    """
    failures: dict[Target, KubeError] = {}
    for _ in range(MAX_ROUNDS):
        reading, observed, steps = keeper.look()
        due = [step for step in steps if step.target not in failures]
        if not due:
            return Settled(reading.at, observed, failures)
        for step in due:
            error = _try(keeper, step, reading)
            tell(step, error)
            if error and not isinstance(error, ConflictError):
                failures[step.target] = error
    undone = KubeError("unsettled", "somebody undoes it as often as it is done")
    tell(due[0], undone)
    return Settled(reading.at, observed, failures | {due[0].target: undone})


def _try(keeper: Keeper, step: Step, reading: Reading) -> KubeError | None:
    refused = keeper.memory.refused
    refused.discard(step.target)
    try:
        keeper.act(step, reading)
    except KubeError as error:
        if error.reason in ("forbidden", "refused") and not isinstance(error, ConflictError):
            refused.add(step.target)
        return error
    return None
