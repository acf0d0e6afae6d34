"""Which bootstrap ConfigMap belongs where: what is there and the time in, the next steps out.

A pod mounts its bootstrap from its own namespace, under a name that says the content, so every content has to be in
every opted-in namespace before a webhook names it, and to stay while a pod or a `rollout undo` may still ask for it.
The order, and why:

1. archive    the content goes to the install namespace first: what is in a namespace can always be made again there,
              also by a replica of another version, and its age is kept at this one place.
2. remember   that a namespace gets ConfigMaps is written down before it does: none is ever left behind unknown.
3. publish    every archived content to every opted-in namespace, old ones too: a webhook may be rolled back to them.
4. announce   the hashes that are everywhere, in a ConfigMap that the webhook mounts: it is not ready before.
5. withdraw   the announcement of a content that nobody has run for a while and no pod names,
6. remove     then its copies, and at last the archived one. So a crash in between leaves what can be tried again.
"""

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

SEEN_EVERY = timedelta(hours=1)  # how exact the time is at which a content was current for the last time
LEFT_FOR = timedelta(hours=1)  # a namespace that opted out keeps its copies: a pod may be on its way in


@dataclass(frozen=True, slots=True)
class Archived:
    """One content: the ConfigMap's data, and when a control plane last had it for its own."""

    data: Mapping[str, str]
    last_current: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down for all replicas: the hashes that are everywhere; which namespaces hold copies.

    A namespace that has opted out has the time at which that was noticed.
    """

    announced: frozenset[str] = frozenset()
    namespaces: Mapping[str, datetime | None] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Observed:
    """The cluster, as far as it concerns bootstraps.

    `opted_in`: namespaces that take sidecars and are not being deleted. `settled`: (namespace, hash) that this process
    has published, or that the namespace itself refuses. `in_use`: (namespace, hash) that pods name; None: not asked.
    """

    archive: Mapping[str, Archived]
    record: Record
    opted_in: frozenset[str]
    settled: frozenset[tuple[str, str]] = frozenset()
    in_use: frozenset[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """Keep this content in the install namespace; or note that it is still current."""

    hash: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Put this content into this namespace."""

    namespace: str
    hash: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write this record in the place of the one that was read."""

    record: Record


@dataclass(frozen=True, slots=True)
class AskForPods:
    """Look which pods name which content: something may be removed."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Take this content out of this namespace."""

    namespace: str
    hash: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Take this content out of the archive."""

    hash: str


Step = Archive | Publish | Write | AskForPods | Remove | Forget


def plan(observed: Observed, current: str, retention: timedelta, now: datetime) -> tuple[Step, ...]:
    """What to do next, in this order. Once all of it is done and observed, the next plan follows; at last an empty one.

    `current` is the hash of this replica's own content; `retention` how long another is kept that no pod names.
    """
    kept = observed.archive.get(current)
    if kept is None or abs(now - kept.last_current) > SEEN_EVERY:
        return (Archive(current),)
    noted = _noted(observed, now)
    if noted != observed.record:
        return (Write(noted),)
    missing = [
        Publish(namespace, content)
        # The newest first: it is what a rollout waits for.
        for content in sorted(observed.archive, key=lambda one: observed.archive[one].last_current, reverse=True)
        for namespace in sorted(observed.opted_in)
        if (namespace, content) not in observed.settled
    ]
    if missing:
        return tuple(missing)
    outdated = _outdated(observed, current, retention, now)
    left = _left(observed, now)
    if (outdated or left) and observed.in_use is None:
        return (AskForPods(),)
    outdated -= {content for _, content in observed.in_use or ()}
    left -= {namespace for namespace, _ in observed.in_use or ()}
    announced = frozenset(observed.archive) - outdated
    if announced != observed.record.announced:
        return (Write(Record(announced, observed.record.namespaces)),)
    return (*_removals(observed, outdated, left), *_end_of(observed, left))


def _noted(observed: Observed, now: datetime) -> Record:
    """The record with every opted-in namespace, and the time for each that opted out.

    What is announced and not in the archive is nowhere safe: it is taken back at once.
    """
    namespaces: dict[str, datetime | None] = dict.fromkeys(sorted(observed.opted_in))
    for name, left in observed.record.namespaces.items():
        if name not in observed.opted_in:
            namespaces[name] = now if left is None or left > now else left
    return Record(observed.record.announced & observed.archive.keys(), namespaces)


def _outdated(observed: Observed, current: str, retention: timedelta, now: datetime) -> Set[str]:
    return {
        content
        for content, kept in observed.archive.items()
        if content != current and now - kept.last_current > retention
    }


def _left(observed: Observed, now: datetime) -> Set[str]:
    return {name for name, left in observed.record.namespaces.items() if left is not None and now - left > LEFT_FOR}


def _removals(observed: Observed, outdated: Collection[str], left: Collection[str]) -> Iterator[Step]:
    for namespace in sorted(observed.record.namespaces):
        for content in sorted(observed.archive if namespace in left else outdated):
            yield Remove(namespace, content)
    yield from (Forget(content) for content in sorted(outdated))


def _end_of(observed: Observed, left: Collection[str]) -> Iterator[Step]:
    if left:
        rest = {name: since for name, since in observed.record.namespaces.items() if name not in left}
        yield Write(Record(observed.record.announced, rest))
