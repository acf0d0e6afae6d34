"""The pod author's interface: every annotation with its key, parser, default and one line of help.

One table, as data: parsing, the leash, `explain` and the reference in the docs all read it. What an annotation does
to the pod is not known here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, get_args

import msgspec

from webhook.errors import SettingsError
from webhook.pod import INJECT_LABEL, MARKERS, PREFIX
from webhook.settings import AccessLog, Form, LogLevel, Mode, Settings
from webhook.values import (
    Percent,
    Ports,
    Quantity,
    did_you_mean,
    integer,
    merge_ports,
    one_of,
    parse_cidrs,
    parse_cpu,
    parse_image,
    parse_memory,
    parse_ports,
    parse_services,
    quote,
    share_or,
)

MAX_VALUE = 16 * 1024  # characters; 128 entries of the longest kind fit twice
MAX_DESCRIBED = 16  # unknown keys that are told one by one: looking for the nearest right one takes 0.3 ms each


class Choices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one pod gets: the operator's defaults, with the author's annotations over them.

    A Struct, for its hash and its `replace`: both are on the path of every admission.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One row of the table.

    `field` names what it sets in Choices, `default` where that stands in the settings. `free` says what authors
    may set unless `authors.allow` says otherwise: everything (True), nothing (False), or some values. `join` adds
    the author's list to the operator's; without it the author's value takes its place.
    """

    name: str
    field: str
    default: str
    parse: Callable[[str], Any]
    values: str
    help: str
    free: bool | tuple[str, ...] = True
    join: Callable[[Any, Any], Any] | None = None

    @property
    def key(self) -> str:
        return PREFIX + self.name


def _join_ports(operators: Ports, authors: Ports) -> Ports:
    return merge_ports((*operators, *authors))


def _join_cidrs(operators: tuple[str, ...], authors: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*operators, *authors)))


def _words(choices: Any) -> str:
    return ", ".join(f"`{word}`" for word in get_args(choices))


_PORTS = "ports and ranges: `8080,9000-9010`"
_CIDRS = "networks: `10.0.0.0/8,fd00::/8`"
_CPU = "cores: `100m`, `0.5`; or `10%` of what the pod's own containers ask for"
_MEMORY = "bytes: `128Mi`; or `10%` of what the pod's own containers ask for"

TABLE: tuple[Annotation, ...] = (
    Annotation(
        name="mode",
        field="mode",
        default="sidecar.mode",
        parse=one_of(*get_args(Mode)),
        values=_words(Mode),
        help="How traffic reaches the sidecar: redirected by iptables, redirected keeping the caller's address, "
        "or not at all (the application is pointed at it).",
        free=("redirect",),  # and `none` where PodSecurity forbids the others: policy.py
    ),
    Annotation(
        name="sidecar",
        field="form",
        default="sidecar.form",
        parse=one_of(*get_args(Form)),
        values=_words(Form),
        help="A native sidecar (an init container that keeps running) or a classic one (an ordinary container).",
    ),
    Annotation(
        name="exclude-inbound-ports",
        field="exclude_inbound_ports",
        default="redirect.exclude_inbound_ports",
        parse=parse_ports,
        values=_PORTS,
        help="Ports of this pod that callers reach directly, past the sidecar.",
        join=_join_ports,
    ),
    Annotation(
        name="exclude-outbound-ports",
        field="exclude_outbound_ports",
        default="redirect.exclude_outbound_ports",
        parse=parse_ports,
        values=_PORTS,
        help="Remote ports that this pod reaches directly, past the sidecar.",
        join=_join_ports,
    ),
    Annotation(
        name="exclude-outbound-cidrs",
        field="exclude_outbound_cidrs",
        default="redirect.exclude_outbound_cidrs",
        parse=parse_cidrs,
        values=_CIDRS,
        help="Networks that this pod reaches directly, past the sidecar.",
        join=_join_cidrs,
    ),
    Annotation(
        name="include-outbound-cidrs",
        field="include_outbound_cidrs",
        default="redirect.include_outbound_cidrs",
        parse=parse_cidrs,
        values=_CIDRS,
        help="If set, only these networks are reached through the sidecar.",
    ),
    Annotation(
        name="opaque-inbound-ports",
        field="opaque_inbound_ports",
        default="redirect.opaque_inbound_ports",
        parse=parse_ports,
        values=_PORTS,
        help="Ports of this pod that are passed on as plain TCP, without protocol detection.",
        join=_join_ports,
    ),
    Annotation(
        name="opaque-outbound-ports",
        field="opaque_outbound_ports",
        default="redirect.opaque_outbound_ports",
        parse=parse_ports,
        values=_PORTS,
        help="Remote ports that are passed on as plain TCP: protocols in which the server speaks first.",
        join=_join_ports,
    ),
    Annotation(
        name="cpu-request",
        field="cpu_request",
        default="sidecar.resources.cpu_request",
        parse=share_or(parse_cpu),
        values=_CPU,
        help="The sidecar's CPU request.",
    ),
    Annotation(
        name="cpu-limit",
        field="cpu_limit",
        default="sidecar.resources.cpu_limit",
        parse=share_or(parse_cpu),
        values=_CPU,
        help="The sidecar's CPU limit.",
    ),
    Annotation(
        name="memory-request",
        field="memory_request",
        default="sidecar.resources.memory_request",
        parse=share_or(parse_memory),
        values=_MEMORY,
        help="The sidecar's memory request.",
    ),
    Annotation(
        name="memory-limit",
        field="memory_limit",
        default="sidecar.resources.memory_limit",
        parse=share_or(parse_memory),
        values=_MEMORY,
        help="The sidecar's memory limit.",
    ),
    Annotation(
        name="concurrency",
        field="concurrency",
        default="sidecar.concurrency",
        parse=integer(1, 128),
        values="1 to 128",
        help="Envoy's worker threads.",
        free=False,
    ),
    Annotation(
        name="log-level",
        field="log_level",
        default="sidecar.log_level",
        parse=one_of(*get_args(LogLevel)),
        values=_words(LogLevel),
        help="Envoy's own log.",
    ),
    Annotation(
        name="access-log",
        field="access_log",
        default="sidecar.access_log",
        parse=one_of(*get_args(AccessLog)),
        values=_words(AccessLog),
        help="Which requests and connections are logged.",
    ),
    Annotation(
        name="image",
        field="image",
        default="sidecar.image",
        parse=parse_image,
        values="an image reference",
        help="The Envoy image.",
        free=False,
    ),
    Annotation(
        name="drain-seconds",
        field="drain_seconds",
        default="sidecar.drain_seconds",
        parse=integer(0, 3600),
        values="0 to 3600",
        help="How long Envoy drains connections when the pod ends.",
    ),
    Annotation(
        name="upstreams",
        field="upstreams",
        default="sidecar.upstreams",
        parse=parse_services,
        values="Services: `orders,users.accounts`",
        help="The Services that this pod calls: what the control plane sends to its sidecar.",
    ),
)

BY_KEY: Mapping[str, Annotation] = {row.key: row for row in TABLE}
_BY_NAME = {row.name: row for row in TABLE}


@dataclass(frozen=True, slots=True)
class Parsed:
    """The outcome of parsing: what was chosen, the rows the author set, what is wrong, which keys are unknown."""

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
            near = did_you_mean(key.removeprefix(PREFIX), _BY_NAME)
            yield f"{quote(key, 80)} is no annotation of ours{near.replace('mean ', f'mean {PREFIX}')}"
    if len(keys) > MAX_DESCRIBED:
        yield f"{len(keys) - MAX_DESCRIBED} more keys under {PREFIX} are no annotations of ours"


def check_leash(settings: Settings, source: str) -> Settings:
    """The same settings, if `authors.allow` speaks of annotations and values that there are.

    Raises SettingsError: a leash that is misspelt holds nobody.
    """
    problems = []
    for name, allowed in settings.authors.allow.items():
        row = _BY_NAME.get(name)
        if row is None:
            problems.append(f"authors.allow.{name}: no such annotation{did_you_mean(name, _BY_NAME)}")
            continue
        for value in allowed if isinstance(allowed, tuple) else ():
            try:
                row.parse(value)
            except ValueError as error:
                problems.append(f"authors.allow.{name}: {quote(value)}: {error}")
    if problems:
        raise SettingsError(source, problems)
    return settings
