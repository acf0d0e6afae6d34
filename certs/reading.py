"""Kubernetes' objects, as they were read, -> what rotation knows of them. Raw JSON ends here; no I/O."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from certs.objects import CONFIG_MAP_KEY, CONFIGURATIONS, Installation, Target
from certs.state import Authority, Leaf, Observed, Trust, decode, decode_leaf

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was there; `at` is the API server's clock: it is one of those who verify."""

    at: datetime
    found: Mapping[Target, Object] = field(repr=False)  # Secrets among them
    namespaces: Mapping[str, datetime]  # that opted in and are not being deleted, and when they were created


@dataclass(slots=True)
class Memory:
    """What one process remembers from one reading to the next: since when it has seen each object as it is,
    by a clock that nobody can set, and which writes were refused."""

    refused: set[Target] = field(default_factory=set)
    _since: dict[Target, tuple[str, float]] = field(default_factory=dict)

    def look(self, reading: Reading, at: float) -> Mapping[Target, timedelta]:
        """For how long each object has been seen unchanged, `at` in seconds. What was missing once starts again."""
        versions = {target: version(found) for target, found in reading.found.items()}
        self._since = {
            target: former if (former := self._since.get(target)) and former[0] == now else (now, at)
            for target, now in versions.items()
        }
        return {target: timedelta(seconds=at - since) for target, (_, since) in self._since.items()}


def observe(reading: Reading, installation: Installation, memory: Memory, at: float) -> Observed:
    """What `reading` says, seen `at` that many seconds of this process's own clock."""
    steady = memory.look(reading, at)
    secret = reading.found.get(installation.authority)
    authority, problem = decode(data(secret)) if secret else (Authority(), "is not there")
    trusts = (
        replace(trust, steady=steady.get(trust.target, timedelta(0)), refuses=trust.target in memory.refused)
        for trust in (*_configurations(reading), *_config_maps(reading, installation))
    )
    leaves = (
        replace(_leaf(reading, target, names), steady=steady.get(target, timedelta(0)))
        for target, names in installation.leaves.items()
    )
    return Observed(secret is not None, authority, problem, tuple(leaves), tuple(trusts))


def version(found: Object) -> str:
    """Changes with every write. The uid with it: another object of the same name is another."""
    metadata = found["metadata"]
    return f"{metadata.get('uid')}/{metadata.get('resourceVersion')}"


def data(secret: Object) -> dict[str, bytes]:
    """The data of a Secret, decoded."""
    return {name: _decoded(value) for name, value in (secret.get("data") or {}).items()}


def _leaf(reading: Reading, target: Target, names: tuple[str, ...]) -> Leaf:
    secret = reading.found.get(target)
    if secret is None:
        return Leaf(target, names, exists=False, problem="is not there")
    bundle, problem = decode_leaf(data(secret))
    return Leaf(target, names, bundle=bundle, problem=problem)


def _configurations(reading: Reading) -> Iterator[Trust]:
    """One that is not installed is no trust of ours: whoever uninstalls deletes it first."""
    for target in CONFIGURATIONS:
        if (found := reading.found.get(target)) and (webhooks := found.get("webhooks")):
            bundles = (webhook["clientConfig"].get("caBundle") or "" for webhook in webhooks)
            yield Trust(target, tuple(_decoded(bundle) for bundle in bundles))


def _config_maps(reading: Reading, installation: Installation) -> Iterator[Trust]:
    """Of all that opted in; and what is left in others, where pods may run on."""
    wanted = {installation.config_map(name) for name in (*reading.namespaces, installation.namespace)}
    present = {target for target in reading.found if target.kind == "ConfigMap"}
    for target in sorted(wanted | present, key=lambda target: target.namespace):
        found = reading.found.get(target)
        text = (found.get("data") or {}).get(CONFIG_MAP_KEY, "") if found else ""
        own = target.namespace == installation.namespace
        yield Trust(
            target,
            (text.encode(errors="replace"),),
            exists=found is not None,
            operators=own,
            born=reading.namespaces.get(target.namespace),
        )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
