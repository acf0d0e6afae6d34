"""What one pod gets: the operator's defaults, with the author's annotations over them.

Reads annotations by the table of `annotations.py`. A bad value is a sentence in the result, never an exception;
whether the author may choose so is the policy's business.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from webhook.annotations import BY_KEY, BY_NAME, TABLE, Annotation
from webhook.errors import SettingsError
from webhook.pod import INJECT_LABEL, MARKERS, PREFIX
from webhook.settings import AccessLog, Form, LogLevel, Mode, Settings
from webhook.values import Percent, Ports, Quantity, did_you_mean, quote

MAX_VALUE = 16 * 1024  # characters; 128 entries of the longest kind fit: NAME.NAMESPACE, of 127
MAX_DESCRIBED = 16  # unknown keys that are told one by one: looking for the nearest right one takes 0.3 ms each


class Choices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one pod gets: the operator's defaults, with the author's annotations over them.

    A Struct, for its `replace`: a dataclass's takes tens of times as long.
    """

    mode: Mode
    form: Form
    image: str
    cpu_request: Quantity | Percent
    cpu_limit: Quantity | Percent | None
    memory_request: Quantity | Percent
    memory_limit: Quantity | Percent | None
    concurrency: int
    log_level: LogLevel
    access_log: AccessLog
    drain_seconds: int
    upstreams: tuple[str, ...]
    exclude_inbound_ports: Ports
    exclude_outbound_ports: Ports
    exclude_outbound_cidrs: tuple[str, ...]
    include_outbound_cidrs: tuple[str, ...]
    opaque_inbound_ports: Ports
    opaque_outbound_ports: Ports


@dataclass(frozen=True, slots=True)
class Parsed:
    """The outcome of parsing: what was chosen, the rows the author set, and in sentences what is wrong and unknown."""

    choices: Choices
    given: tuple[Annotation, ...]
    problems: tuple[str, ...]
    unknown: tuple[str, ...]


@lru_cache(maxsize=8)
def defaults(settings: Settings) -> Choices:
    """What a pod without annotations gets."""
    return Choices(**{row.field: attrgetter(row.default)(settings) for row in TABLE})


def parse(annotations: Mapping[str, str], settings: Settings) -> Parsed:
    """The author's choices over the operator's defaults. Never raises: a bad value is a problem in the result."""
    chosen: dict[str, Any] = {}
    given, problems, unknown = [], [], []
    for key, text in sorted(item for item in annotations.items() if item[0].startswith(PREFIX)):
        row = BY_KEY.get(key)
        if row is None:
            unknown += [] if key in MARKERS else [key]
            continue
        given.append(row)
        try:
            value = _parse_value(row, text)
            chosen[row.field] = row.join(getattr(defaults(settings), row.field), value) if row.join else value
        except ValueError as error:
            problems.append(f"{key}: {quote(text)}: {error}")
    choices = msgspec.structs.replace(defaults(settings), **chosen)
    return Parsed(choices, tuple(given), tuple(problems), tuple(_describe_unknown(unknown)))


def _parse_value(row: Annotation, text: str) -> Any:
    if len(text) > MAX_VALUE:
        raise ValueError(f"the value is too long; the most is {MAX_VALUE} characters")
    return row.parse(text.strip())


def _describe_unknown(keys: Sequence[str]) -> Iterator[str]:
    for key in keys[:MAX_DESCRIBED]:
        if key == INJECT_LABEL:
            yield f"{key} is a label, not an annotation"
        else:
            # Compared without the prefix: 17 equal characters would make any two keys alike.
            near = did_you_mean(key.removeprefix(PREFIX), BY_NAME)
            yield f"{quote(key, 80)} is no annotation of ours{near.replace('mean ', f'mean {PREFIX}')}"
    if len(keys) > MAX_DESCRIBED:
        yield f"{len(keys) - MAX_DESCRIBED} more keys under {PREFIX} are no annotations of ours"


def check_leash(settings: Settings, source: str) -> Settings:
    """The same settings, if `authors.allow` speaks of annotations and values that there are.

    Raises SettingsError: a leash that is misspelt holds nobody.
    """
    problems = []
    for name, allowed in settings.authors.allow.items():
        row = BY_NAME.get(name)
        if row is None:
            problems.append(f"authors.allow.{name}: no such annotation{did_you_mean(name, BY_NAME)}")
            continue
        for value in allowed if isinstance(allowed, tuple) else ():
            try:
                row.parse(value)
            except ValueError as error:
                problems.append(f"authors.allow.{name}: {quote(value)}: {error}")
    if problems:
        raise SettingsError(source, problems)
    return settings
