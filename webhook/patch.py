"""JSON Patch (RFC 6902): from what is wanted of a map or a list to the fewest operations that give it.

An author's list is never indexed, replaced or reordered: what is ours is inserted at 0 or appended, and repaired or
removed where it already stands. (The one exception, his TCP probes, is the business of probes.py.)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

Operation = dict[str, Any]
Item = Mapping[str, Any]


@lru_cache(maxsize=256)
def _escaped(key: str) -> str:
    """A key as a token of a JSON Pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def set_keys(path: str, present: Mapping[str, str] | None, wanted: Mapping[str, str | None]) -> Iterator[Operation]:
    """Operations that give the map at `path` these keys, and take away those of None; an absent map is created once."""
    if present is None:
        yield {"op": "add", "path": path, "value": {key: value for key, value in wanted.items() if value is not None}}
        return
    for key, value in wanted.items():
        if present.get(key) != value:
            where = f"{path}/{_escaped(key)}"
            yield {"op": "remove", "path": where} if value is None else {"op": "add", "path": where, "value": value}


def arrange(
    path: str,
    present: Sequence[Item] | None,
    *,
    first: Sequence[Item] = (),
    last: Sequence[Item] = (),
    ours: Collection[str],
    settle: Callable[[Item, Item], Item],
) -> Iterator[Operation]:
    """Operations that put `first` at the head and `last` at the end of the list at `path`.

    `ours` holds every name that may only be ours: an item under such a name is one that we wrote before, and
    `settle(wanted, former)` says what is wanted in its stead. If all of them stand in their places, only those that
    differ are replaced; else they are taken out and put in anew.
    """
    if present is None:
        if first or last:
            yield {"op": "add", "path": path, "value": [*first, *last]}
        return
    found = [index for index, item in enumerate(present) if item["name"] in ours]
    if not found:
        yield from _added(path, first, last)
        return
    former = {present[index]["name"]: present[index] for index in found}
    first, last = _settled(first, former, settle), _settled(last, former, settle)
    places = [*range(len(first)), *range(len(present) - len(last), len(present))]
    wanted = [*first, *last]
    if found == places and [present[index]["name"] for index in found] == [item["name"] for item in wanted]:
        for index, item in zip(found, wanted, strict=True):
            if item != present[index]:
                yield {"op": "replace", "path": f"{path}/{index}", "value": item}
        return
    yield from ({"op": "remove", "path": f"{path}/{index}"} for index in reversed(found))
    yield from _added(path, first, last)


def _added(path: str, first: Sequence[Item], last: Sequence[Item]) -> Iterator[Operation]:
    yield from ({"op": "add", "path": f"{path}/0", "value": item} for item in reversed(first))
    yield from ({"op": "add", "path": f"{path}/-", "value": item} for item in last)


def _settled(
    wanted: Sequence[Item], former: Mapping[str, Item], settle: Callable[[Item, Item], Item]
) -> Sequence[Item]:
    return [settle(item, former[item["name"]]) if item["name"] in former else item for item in wanted]


def keep(
    path: str,
    present: Sequence[Item] | None,
    wanted: Sequence[Item],
    *,
    ours: Collection[str],
) -> Iterator[Operation]:
    """Operations that make the list at `path` hold `wanted`, in any order, and nothing else under the names `ours`."""
    if present is None:
        yield {"op": "add", "path": path, "value": list(wanted)}
        return
    missing = {item["name"]: item for item in wanted}
    stale = []
    for index, item in enumerate(present):
        if item["name"] not in ours:
            continue
        replacement = missing.pop(item["name"], None)
        if replacement is None:
            stale.append(index)
        elif replacement != item:
            yield {"op": "replace", "path": f"{path}/{index}", "value": replacement}
    yield from ({"op": "remove", "path": f"{path}/{index}"} for index in reversed(stale))
    yield from ({"op": "add", "path": f"{path}/-", "value": item} for item in missing.values())
