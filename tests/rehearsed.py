"""A cluster in memory, with both registrations and a namespace that opted in, and what `certs` does in it."""

import itertools
import time
from datetime import UTC, datetime

from certs.kube import KubeError
from certs.objects import CONFIGURATIONS, Installation, Target
from certs.reading import Object, Reading
from certs.rehearsal import Rehearsal
from certs.rotation import Lifetimes
from certs.rounds import Keeper, settle
from certs.steps import Step

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
INSTALLATION = Installation()


def cluster(store: type[Rehearsal] = Rehearsal) -> Rehearsal:
    """Before the first installation."""
    found: dict[Target, Object] = {one: {"metadata": {}, "webhooks": [{"clientConfig": {}}]} for one in CONFIGURATIONS}
    return store(Reading(NOW, found, {"shop": NOW}))


def keeper(store: Rehearsal) -> Keeper:
    """A process that has just started."""
    numbers = itertools.count()
    return Keeper(store, INSTALLATION, Lifetimes(), time.monotonic, lambda: str(next(numbers)))


def nothing(_step: Step, _error: KubeError | None) -> None:
    """Tells nobody."""


def settled() -> Rehearsal:
    """All well."""
    store = cluster()
    settle(keeper(store), nothing)
    return store
