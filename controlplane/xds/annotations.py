"""The annotations of a Service, as one table: key, parser, values, help. Defaults are those of `Policy`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.xds import values
from controlplane.xds.policy import DEFAULT, Policy
from controlplane.xds.values import Balancing, RetryMethods

PREFIX = "envoy-sidecar.io/"
MAX_SHOWN = 80  # characters of a value, in a message


@dataclass(frozen=True, slots=True)
class Annotation:
    """One row: `parse` raises ValueError with what is allowed, `show` is its reverse. `in_vain` says why what a policy
    has of it does nothing at a port of TCP; empty: it does something there.
    """

    name: str
    in_vain: Callable[[Policy], str]
    parse: Callable[[str], Any]
    values: str
    help: str
    example: str
    show: Callable[[Any], str] = str
    field: str = ""  # of Policy, that it sets

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", self.field or self.name.replace("-", "_"))

    @property
    def key(self) -> str:
        return PREFIX + self.name


_MOST = 10_000_000


def _anywhere(_: Policy) -> str:
    return ""


def _of_requests(_: Policy) -> str:
    return "no request is seen there"


def _of_latency(policy: Policy) -> str:
    return (
        "no answer is seen there that could be timed, and endpoints take turns" if policy.balancing == "latency" else ""
    )


def _of_health(policy: Policy) -> str:
    return "" if policy.health_check == "tcp" else "nobody is asked there; `tcp` would ask for connections"


def _of_hash(policy: Policy) -> str:
    kind, _ = policy.hash_on
    hashed = policy.balancing == "consistent-hash" and kind != "source-ip"
    return f"there is no {kind}, and the caller's address is hashed" if hashed else ""


def _time(
    name: str, in_vain: Callable[[Policy], str], low: int, high: int, help: str, example: str, *, none: bool = True
) -> Annotation:
    """Of milliseconds; `none`: it may be off."""
    allowed = "a time, `off`" if none else "a time"
    return Annotation(name, in_vain, values.duration(low, high, none=none), allowed, help, example, values.show_time)


def _number(
    name: str, in_vain: Callable[[Policy], str], low: int, high: int, help: str, example: str, unit: str = ""
) -> Annotation:
    return Annotation(name, in_vain, values.integer(low, high), f"{low} to {high}{unit}", help, example)


TABLE: tuple[Annotation, ...] = (
    _number("retries", _of_requests, 0, 10, "How often a request is sent again, at most.", "3"),
    Annotation(
        "retry-on",
        _of_requests,
        values.conditions,
        "Envoy's conditions",
        "When an idempotent request is sent again. With `retry-methods: all`, by default also on gRPC's `unavailable` "
        "and `cancelled`.",
        "5xx,reset",
        ",".join,
    ),
    Annotation(
        "retry-methods",
        _of_requests,
        values.one_of(RetryMethods),
        "`idempotent`, `all`",
        "Whether POST and PATCH count as idempotent. Otherwise they are sent again only where nobody began them.",
        "all",
    ),
    _time("retry-timeout", _of_requests, 1, values.DAY, "How long one attempt may take.", "250ms"),
    _number(
        "retry-budget",
        _of_requests,
        0,
        100,
        "The most retries of a caller at once, as a share of its requests in flight.",
        "10",
        ", percent",
    ),
    _time(
        "retry-interval",
        _of_requests,
        100,
        60_000,
        "Counts the requests of that time instead, which allows far more retries at once.",
        "1s",
    ),
    _number("retry-minimum", _of_requests, 0, 1000, "How many retries at once a caller may have in any case.", "1"),
    _time("timeout", _of_requests, 1, values.DAY, "How long a request may take, with its retries.", "2s"),
    _time(
        "connect-timeout",
        _anywhere,
        1,
        60_000,
        "How long an endpoint may take to accept a connection.",
        "500ms",
        none=False,
    ),
    _time("idle-timeout", _of_requests, 1000, values.DAY, "How long an unused connection is kept.", "30s"),
    _time(
        "tcp-keepalive",
        _anywhere,
        1000,
        values.DAY,
        "After which silence TCP asks whether the endpoint is there.",
        "30s",
    ),
    _number("max-connections", _anywhere, 1, _MOST, "Connections of a caller to the Service.", "100"),
    # Whoever waits for a connection, Envoy counts so, whatever it is for.
    _number("max-pending-requests", _anywhere, 1, _MOST, "Requests of a caller that wait for a connection.", "50"),
    _number("max-requests", _of_requests, 1, _MOST, "Requests of a caller in flight.", "200"),
    _number(
        "eject-after",
        _anywhere,
        0,
        1000,
        "After how many gateway failures in a row a caller leaves an endpoint alone, or failed connections, of which "
        "three are enough; 0 is never.",
        "3",
    ),
    _time("eject-for", _anywhere, 1000, 300_000, "For how long at first; longer each time, to 5m.", "30s", none=False),
    _number("eject-percent", _anywhere, 0, 100, "How many endpoints at once, at most.", "30", ", percent"),
    Annotation(
        "load-balancing",
        _of_latency,
        values.one_of(Balancing),
        "`least-request`, `round-robin`, `latency`, `consistent-hash`",
        "How an endpoint is chosen.",
        "latency",
        field="balancing",
    ),
    Annotation(
        "hash-on",
        _of_hash,
        values.hash_on,
        "`header:NAME`, `cookie:NAME`, `source-ip`",
        "What consistent-hash looks at.",
        "header:x-customer",
        values.show_hash_on,
    ),
    _time(
        "warm-up",
        _anywhere,
        1000,
        3_600_000,
        "How long a new endpoint gets less than its share, with least-request or round-robin.",
        "30s",
    ),
    Annotation(
        "health-check",
        _of_health,
        values.health_check,
        "a path, `tcp`, `grpc`, `off`",
        "What every caller asks every endpoint; those that do not answer get no requests. Ports of TCP are asked by "
        "`tcp` only, ports of gRPC by no path. `tcp` is a connection, which a replica's sidecar always accepts: it is "
        "for replicas without one.",
        "/healthz",
        values.show_health_check,
    ),
    _time(
        "health-check-interval",
        _anywhere,
        1000,
        300_000,
        "How often; once a minute before a caller's first request.",
        "10s",
        none=False,
    ),
    Annotation(
        "protocol",
        _anywhere,
        values.protocols,
        "`http`, `grpc`, `tcp`, or for each port",
        "What the ports carry. Overrides appProtocol and the names of ports.",
        "80=http,5432=tcp",
        values.show_protocols,
        "protocols",
    ),
)

BY_KEY: Mapping[str, Annotation] = {row.key: row for row in TABLE}


def default_of(row: Annotation) -> object:
    """What holds without that annotation."""
    found: object = DEFAULT.conditions if row.field == "retry_on" else getattr(DEFAULT, row.field)
    return found
