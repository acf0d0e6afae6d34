"""How a Service wants to be called: its annotations, as one table: key, parser, values, help. Defaults are `Policy`'s.

A bad one is told of, and the rest applies. The defaults never repeat what may not be repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from controlplane.xds import values
from controlplane.xds.values import Balancing, HashOn, PortProtocol, RetryMethods

PREFIX = "envoy-sidecar.io/"
MAX_SHOWN = 80  # characters of a value, in a message
MAX_UNKNOWN = 10  # annotations of our prefix for which the nearest is looked for, which takes 0.4 ms each


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Times are milliseconds; 0 of a time is none, 0 of a count is never."""

    retries: int = 2
    retry_on: tuple[str, ...] = (
        "gateway-error",
        "reset",
        "connect-failure",
        "refused-stream",
        "unavailable",
        "cancelled",
    )
    retry_methods: RetryMethods = "idempotent"
    retry_timeout: int = 0
    retry_budget: int = 20  # percent of the requests in flight; with an interval, of all that were in that time
    retry_interval: int = 0
    # Retries at once that the budget allows in any case. Where no replica works, five callers at once then send 1.8
    # requests for each of theirs; with 4 here it was 2.4, with 5 the full 3.
    retry_minimum: int = 3
    timeout: int = 0
    connect_timeout: int = 1000
    idle_timeout: int = 55_000  # below the minute after which many servers close
    tcp_keepalive: int = 60_000
    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 4096
    eject_after: int = 5
    eject_for: int = 10_000
    eject_percent: int = 50
    balancing: Balancing | None = None  # None: least-request, or as the Service's session affinity asks
    hash_on: HashOn = ("source-ip", "")
    warm_up: int = 0
    health_check: str = ""  # `tcp`, `grpc`, or a path
    health_check_interval: int = 5000
    protocols: tuple[tuple[int, PortProtocol], ...] = ()  # by port; 0 is every other port


DEFAULT = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One row: `field` names what it sets in Policy; `parse` raises ValueError with what is allowed."""

    name: str
    field: str
    parse: Callable[[str], Any]
    values: str
    help: str
    example: str

    @property
    def key(self) -> str:
        return PREFIX + self.name


def read(annotations: Mapping[str, str]) -> tuple[Policy, tuple[str, ...]]:
    """The policy of a Service with these annotations, and what is wrong with them, a sentence each."""
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
    if policy.balancing == "consistent-hash" and "hash_on" not in chosen:
        problems.append(
            f"{PREFIX}load-balancing: consistent-hash needs {PREFIX}hash-on; until then the caller is hashed"
        )
    elif "hash_on" in chosen and policy.balancing != "consistent-hash":
        problems.append(f"{PREFIX}hash-on does nothing without {PREFIX}load-balancing: consistent-hash")
    return policy, tuple(problems)


def of_tcp(policy: Policy, ports: Sequence[int]) -> tuple[str, ...]:
    """What the annotations ask for in vain at ports of TCP, a sentence each."""
    kind, name = policy.hash_on
    if not ports or policy.balancing != "consistent-hash" or kind == "source-ip":
        return ()
    numbers = ", ".join(map(str, ports[:MAX_UNKNOWN]))
    return (f"{PREFIX}hash-on: {kind}:{name}: TCP has none; at port {numbers} the caller's address is hashed",)


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def _did_you_mean(key: str) -> str:
    near = get_close_matches(key[:MAX_SHOWN], BY_KEY, n=1)
    return f"; did you mean {near[0]}?" if near else ""


_MOST = 10_000_000


def _row(name: str, parse: Callable[[str], Any], values: str, help: str, example: str, field: str = "") -> Annotation:
    field = field or name.replace("-", "_")
    return Annotation(name=name, field=field, parse=parse, values=values, help=help, example=example)


TABLE: tuple[Annotation, ...] = (
    _row("retries", values.integer(0, 10), "0 to 10", "How often a request is sent again, at most.", "3"),
    _row("retry-on", values.conditions, "Envoy's conditions", "When an idempotent request is sent again.", "5xx,reset"),
    _row(
        "retry-methods",
        values.one_of(RetryMethods),
        "`idempotent`, `all`",
        "Whether POST and PATCH count as idempotent. Otherwise they are sent again only where nobody began them.",
        "all",
    ),
    _row("retry-timeout", values.duration(1, values.DAY), "a time, `off`", "How long one attempt may take.", "250ms"),
    _row(
        "retry-budget",
        values.integer(0, 100),
        "0 to 100, percent",
        "The most retries of a caller at once, as a share of its requests in flight.",
        "10",
    ),
    _row(
        "retry-interval",
        values.duration(100, 60_000),
        "a time, `off`",
        "Counts the requests of that time instead, which allows far more retries at once.",
        "1s",
    ),
    _row(
        "retry-minimum",
        values.integer(0, 1000),
        "0 to 1000",
        "How many retries at once a caller may have in any case.",
        "1",
    ),
    _row(
        "timeout",
        values.duration(1, values.DAY),
        "a time, `off`",
        "How long a request may take, with its retries.",
        "2s",
    ),
    _row(
        "connect-timeout",
        values.duration(1, 60_000, none=False),
        "a time",
        "How long an endpoint may take to accept a connection.",
        "500ms",
    ),
    _row(
        "idle-timeout",
        values.duration(1000, values.DAY),
        "a time, `off`",
        "How long an unused connection is kept.",
        "30s",
    ),
    _row(
        "tcp-keepalive",
        values.duration(1000, values.DAY),
        "a time, `off`",
        "After which silence TCP asks whether the endpoint is there.",
        "30s",
    ),
    _row(
        "max-connections", values.integer(1, _MOST), "1 to 10000000", "Connections of a caller to the Service.", "100"
    ),
    _row(
        "max-pending-requests",
        values.integer(1, _MOST),
        "1 to 10000000",
        "Requests of a caller that wait for a connection.",
        "50",
    ),
    _row("max-requests", values.integer(1, _MOST), "1 to 10000000", "Requests of a caller in flight.", "200"),
    _row(
        "eject-after",
        values.integer(0, 1000),
        "0 to 1000",
        "After how many gateway failures in a row a caller leaves an endpoint alone; 0 is never.",
        "3",
    ),
    _row(
        "eject-for",
        values.duration(1000, 300_000, none=False),
        "a time",
        "For how long at first; longer each time, to 5m.",
        "30s",
    ),
    _row("eject-percent", values.integer(0, 100), "0 to 100, percent", "How many endpoints at once, at most.", "30"),
    _row(
        "load-balancing",
        values.one_of(Balancing),
        "`least-request`, `round-robin`, `latency`, `consistent-hash`",
        "How an endpoint is chosen.",
        "latency",
        "balancing",
    ),
    _row(
        "hash-on",
        values.hash_on,
        "`header:NAME`, `cookie:NAME`, `source-ip`",
        "What consistent-hash looks at.",
        "header:x-customer",
    ),
    _row(
        "warm-up",
        values.duration(1000, 3_600_000),
        "a time, `off`",
        "How long a new endpoint gets less than its share, with least-request or round-robin.",
        "30s",
    ),
    _row(
        "health-check",
        values.health_check,
        "a path, `tcp`, `grpc`, `off`",
        "What every caller asks every endpoint; those that do not answer get no requests. `tcp` is a connection, which "
        "a replica's sidecar always accepts: it is for replicas without one.",
        "/healthz",
    ),
    _row(
        "health-check-interval",
        values.duration(1000, 300_000, none=False),
        "a time",
        "How often; once a minute before a caller's first request.",
        "10s",
    ),
    _row(
        "protocol",
        values.protocols,
        "`http`, `grpc`, `tcp`, or for each port",
        "What the ports carry. Overrides appProtocol and the names of ports.",
        "80=http,5432=tcp",
        "protocols",
    ),
)

BY_KEY: Mapping[str, Annotation] = {row.key: row for row in TABLE}


def default_of(row: Annotation) -> object:
    """What holds without that annotation."""
    return next(getattr(DEFAULT, field.name) for field in fields(DEFAULT) if field.name == row.field)
