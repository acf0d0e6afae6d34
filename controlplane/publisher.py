"""Bootstraps in the cluster: reads what `publication` asks about, and does its steps. Decides nothing.

The archive is one ConfigMap for each content in the install namespace, under the name that its copies have; the
record is the ConfigMap `envoy-sidecar-published` beside them, which the webhook mounts to see what it may name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane import bootstrap
from controlplane.apiserver import KubeError, Object
from controlplane.kube import Kube
from controlplane.publication import (
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
)

PREFIX = "envoy-sidecar.io/"
OPT_IN, INJECTED = f"{PREFIX}inject=enabled", f"{PREFIX}injected=true"
ARCHIVED, LAST_CURRENT, COPY = f"{PREFIX}archived", f"{PREFIX}last-current", f"{PREFIX}bootstrap-hash"
RECORD = "envoy-sidecar-published"
HASHES, NAMESPACES = "hashes", "namespaces"  # keys of the record; a line for each
SYSTEM = frozenset({"kube-system", "kube-public", "kube-node-lease"})  # never injected, whatever their labels


@dataclass(slots=True)
class Publisher:
    """One replica's view of one cluster, and its hands. `home` is the install namespace."""

    kube: Kube
    home: str
    content: Mapping[str, str]
    on_refusal: Callable[[Step, KubeError], None] = lambda _step, _error: None
    _uids: dict[str, str] = field(default_factory=dict)  # of the namespaces that are opted in
    _settled: set[tuple[str, str]] = field(default_factory=set)
    _read: Object = field(default_factory=dict)  # the record
    _in_use: frozenset[tuple[str, str]] | None = None
    _archive: dict[str, Archived] = field(default_factory=dict)

    @property
    def current(self) -> str:
        """The hash of this replica's own content."""
        return bootstrap.digest(self.content)

    def observe(self) -> Observed:
        """What is there. Raises KubeError."""
        # The record before the archive: what is announced was archived before, so it is found there.
        self._read = self.kube.get(self.home, RECORD) or {}
        self._archive = dict(map(_archived, filter(_is_whole, self.kube.config_maps(self.home, f"{ARCHIVED}=true"))))
        self._notice({one["name"]: one["uid"] for one in self._opted_in()})
        in_use, self._in_use = self._in_use, None  # good for one plan
        return Observed(self._archive, _record(self._read), frozenset(self._uids), frozenset(self._settled), in_use)

    def doubt(self) -> None:
        """Forgets what was published: it is published again, which heals what somebody took away."""
        self._settled.clear()

    def act(self, step: Step, now: datetime) -> None:
        """Does one step. Raises KubeError."""
        match step:
            case Archive():
                self.kube.apply(self._to_archive(now))
            case Write(record=record):
                self._write(record)
            case Publish(namespace=namespace, hash=content):
                self._publish(step, bootstrap.config_map_of(self._archive[content].data, namespace))
                self._settled.add((namespace, content))
            case AskForPods():
                self._in_use = frozenset(self._names_of_pods())
            case Remove(namespace=namespace, hash=content):
                self._settled.discard((namespace, content))
                self.kube.delete(namespace, f"{bootstrap.NAME_PREFIX}{content}")
            case Forget(hash=content):
                self.kube.delete(self.home, f"{bootstrap.NAME_PREFIX}{content}")

    def _opted_in(self) -> list[Object]:
        found = [one["metadata"] for one in self.kube.namespaces(OPT_IN)]
        excluded = SYSTEM | {self.home}
        return [one for one in found if one["name"] not in excluded and "deletionTimestamp" not in one]

    def _notice(self, uids: dict[str, str]) -> None:
        """A namespace that went, or came back as another one, holds nothing that we published."""
        gone = {name for name, uid in self._uids.items() if uids.get(name) != uid}
        self._settled = {pair for pair in self._settled if pair[0] not in gone}
        self._uids = uids

    def _publish(self, step: Publish, config_map: Object) -> None:
        """A namespace that refuses, by a quota or a policy of its own, is told of and holds nobody else up."""
        try:
            self.kube.apply(config_map)
        except KubeError as error:
            if error.reason not in ("refused", "missing"):
                raise
            self.on_refusal(step, error)

    def _to_archive(self, now: datetime) -> Object:
        config_map = bootstrap.config_map_of(self.content, self.home)
        config_map["metadata"]["labels"][ARCHIVED] = "true"
        config_map["metadata"]["annotations"] = {LAST_CURRENT: now.isoformat(timespec="seconds")}
        return config_map

    def _write(self, record: Record) -> None:
        """Replaces what was read, unless another replica was faster."""
        metadata = {"name": RECORD, "namespace": self.home}
        if not self._read:
            self.kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            self._read = self.kube.get(self.home, RECORD) or {}
            if _record(self._read) != Record():
                return  # it was there after all: plan again
        self.kube.replace({**self._read, "data": _encode(record)})

    def _names_of_pods(self) -> set[tuple[str, str]]:
        pods = (pod["metadata"] for pod in self.kube.pods(INJECTED))
        named = ((pod["namespace"], pod.get("annotations", {}).get(COPY)) for pod in pods)
        return {(namespace, content) for namespace, content in named if content}


def _is_whole(config_map: Object) -> bool:
    """Whether the content is the one that the name says; anything else would reach every sidecar."""
    name: str = config_map["metadata"]["name"]
    return name == f"{bootstrap.NAME_PREFIX}{bootstrap.digest(config_map.get('data', {}))}"


def _archived(config_map: Object) -> tuple[str, Archived]:
    metadata, data = config_map["metadata"], config_map.get("data", {})
    return bootstrap.digest(data), Archived(data, _time(metadata.get("annotations", {}).get(LAST_CURRENT, "")))


def _record(config_map: Object) -> Record:
    data = config_map.get("data") or {}
    namespaces: dict[str, datetime | None] = {}
    for line in data.get(NAMESPACES, "").splitlines():
        name, _, left = line.partition(" ")
        namespaces[name] = _time(left) if left else None
    return Record(frozenset(data.get(HASHES, "").split()), namespaces)


def _encode(record: Record) -> dict[str, str]:
    namespaces = (
        name if left is None else f"{name} {left.isoformat(timespec='seconds')}"
        for name, left in sorted(record.namespaces.items())
    )
    return {HASHES: "\n".join(sorted(record.announced)), NAMESPACES: "\n".join(namespaces)}


def _time(text: str) -> datetime:
    """Of what is no time, the end of time: a thing of unknown age is kept."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
