"""The pod author's interface: every annotation with its key, parser, default and one line of help.

One table, as data: parsing, the leash, `explain` and the reference in the docs all read it. What a pod's own
annotations come to is `choices.py`'s business; what they do to the pod is not known here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from webhook.pod import PREFIX
from webhook.settings import AccessLog, Form, LogLevel, Mode
from webhook.values import (
    Ports,
    integer,
    merge_ports,
    one_of,
    parse_cidrs,
    parse_cpu,
    parse_image,
    parse_memory,
    parse_ports,
    parse_services,
    share_or,
)


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
BY_NAME: Mapping[str, Annotation] = {row.name: row for row in TABLE}
