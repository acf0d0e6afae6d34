"""From the annotations of a Service to its policy, what is wrong with them, and back.

A bad one is told of, and the rest applies. Wrong is also what does nothing.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from controlplane.xds.annotations import BY_KEY, MAX_SHOWN, PREFIX, TABLE, Annotation
from controlplane.xds.policy import DEFAULT, Policy

MAX_UNKNOWN = 10  # annotations of our prefix for which the nearest is looked for, which takes 0.4 ms each


def read(annotations: Mapping[str, str], *, sticky: bool = False) -> tuple[Policy, tuple[str, ...]]:
    """The policy of a Service with these annotations, and what is wrong with them, a sentence each.

    A `sticky` Service asks by its sessionAffinity that callers are hashed, unless `load-balancing` says otherwise.
    """
    problems: list[str] = []
    chosen: dict[str, Any] = {}
    unknown = 0
    for key, text in sorted(annotations.items()):
        if not key.startswith(PREFIX):
            continue
        row = BY_KEY.get(key)
        if row is None:
            unknown += 1
            if unknown <= MAX_UNKNOWN:
                problems.append(f"{_shown(key)} is no annotation of a Service{_did_you_mean(key)}")
            continue
        try:
            chosen[row.field] = row.parse(text)
        except ValueError as error:
            problems.append(f"{key}: {_shown(text)}: {error}")
    if unknown > MAX_UNKNOWN:
        problems.append(f"{unknown - MAX_UNKNOWN} more are no annotations of a Service")
    policy = replace(DEFAULT, **chosen)
    return policy, (*problems, *_apart(policy, chosen, sticky=sticky))


def _apart(policy: Policy, chosen: Collection[str], *, sticky: bool) -> Iterator[str]:
    """What needs another annotation, and stands without it."""
    if policy.balancing == "consistent-hash" and "hash_on" not in chosen:
        yield f"{PREFIX}load-balancing: consistent-hash needs {PREFIX}hash-on; until then the caller is hashed"
    elif "hash_on" in chosen and policy.balancing != "consistent-hash":
        yield f"{PREFIX}hash-on does nothing without {PREFIX}load-balancing: consistent-hash"
    if policy.warm_up and policy.balancing in ("latency", "consistent-hash"):
        yield f"{PREFIX}warm-up does nothing with {PREFIX}load-balancing: {policy.balancing}"
    elif policy.warm_up and sticky and policy.balancing is None:
        yield f"{PREFIX}warm-up does nothing with sessionAffinity: ClientIP"
    if policy.timeout and policy.retry_timeout >= policy.timeout:
        yield f"{PREFIX}retry-timeout does nothing: {PREFIX}timeout is not longer"
    for switch, others in _OFF.items():
        if not getattr(policy, switch):
            yield from (f"{_key(one)} does nothing while {_key(switch)} is off" for one in others if one in chosen)


# What has nothing to decide while another is 0, or not there.
_OFF: Mapping[str, tuple[str, ...]] = {
    "retries": ("retry_on", "retry_methods", "retry_timeout", "retry_budget", "retry_interval", "retry_minimum"),
    "eject_after": ("eject_for", "eject_percent"),
    "health_check": ("health_check_interval",),
}


def _key(field: str) -> str:
    return PREFIX + field.replace("_", "-")


def changed(policy: Policy) -> Iterator[tuple[Annotation, str]]:
    """What differs from the defaults: the annotations that say so, with their values as authors write them."""
    for row in TABLE:
        value = getattr(policy, row.field)
        if value != getattr(DEFAULT, row.field):
            yield row, row.show(value)


def in_vain(policy: Policy, why: str) -> tuple[str, ...]:
    """What is wrong with the annotations of a Service none of which does anything, a sentence each."""
    return tuple(f"{row.key}: {_shown(text)} does nothing: {why}" for row, text in changed(policy))


def in_vain_over_tcp(policy: Policy) -> tuple[str, ...]:
    """What is wrong with the annotations of a Service all of whose ports carry TCP, a sentence each."""
    return tuple(
        f"{row.key}: {_shown(text)} does nothing where every port carries TCP: {why}"
        for row, text in changed(policy)
        if (why := row.in_vain(policy))
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def _did_you_mean(key: str) -> str:
    near = get_close_matches(key[:MAX_SHOWN], BY_KEY, n=1)
    return f"; did you mean {near[0]}?" if near else ""
