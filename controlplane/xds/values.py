"""The small values that a Service's annotations hold. Each parser raises ValueError with what is allowed."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

Balancing = Literal["least-request", "round-robin", "latency", "consistent-hash"]
HashOn = tuple[Literal["header", "cookie", "source-ip"], str]
RetryMethods = Literal["idempotent", "all"]
PortProtocol = Literal["http", "grpc", "tcp"]

# Envoy's conditions under which a request may be sent again, if its method allows that.
CONDITIONS = (
    "gateway-error",
    "5xx",
    "reset",
    "connect-failure",
    "refused-stream",
    "envoy-ratelimited",
    "retriable-4xx",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
DAY = 24 * 3_600_000  # milliseconds
MAX_ENTRIES = 128  # of a list by port: a Service has no more


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number, both bounds included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(text)

    return parse


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


def duration(low: int, high: int, *, none: bool = True) -> Callable[[str], int]:
    """Milliseconds; `off` and 0 are none, if that is allowed."""
    allowed = f"use a time from {show_duration(low)} to {show_duration(high)}, such as {show_duration(low * 2)}"

    def parse(text: str) -> int:
        if none and text in ("off", "0"):
            return 0
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", text, re.ASCII)
        time = round(float(match[1]) * _UNITS[match[2]]) if match else -1
        if not low <= time <= high:
            raise ValueError(f"{allowed}{', or off' if none else ''}")
        return time

    return parse


def show_duration(milliseconds: int) -> str:
    """The text that would be read back."""
    unit = next(unit for unit in ("h", "m", "s", "ms") if milliseconds % _UNITS[unit] == 0)
    return f"{milliseconds // _UNITS[unit]}{unit}"


def show_time(milliseconds: int) -> str:
    """The same, where there may be none."""
    return show_duration(milliseconds) if milliseconds else "off"


def one_of(choices: Any) -> Callable[[str], str]:
    """One of a Literal's words."""
    words = get_args(choices)

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"use one of {', '.join(words)}")
        return text

    return parse


def conditions(text: str) -> tuple[str, ...]:
    """Some of CONDITIONS, separated by commas, each once."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not set(words) <= set(CONDITIONS):
        raise ValueError(f"use some of {', '.join(CONDITIONS)}")
    return words


_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}"  # RFC 9110, section 5.6.2


def hash_on(text: str) -> HashOn:
    """What is hashed, and its name: header, in lower case, or cookie; the caller's address has none."""
    match = re.fullmatch(rf"(header|cookie):({_NAME})", text, re.ASCII)
    if match:
        kind = cast("Literal['header', 'cookie']", match[1])
        return kind, match[2].lower() if kind == "header" else match[2]
    if text != "source-ip":
        raise ValueError("use header:NAME, cookie:NAME or source-ip")
    return "source-ip", ""


def show_hash_on(chosen: HashOn) -> str:
    """The text that would be read back."""
    return ":".join(filter(None, chosen))


def health_check(text: str) -> str:
    """A path, `tcp`, `grpc`, or nothing."""
    if text == "off":
        return ""
    if text in ("tcp", "grpc") or re.fullmatch(r"/[!-~]{0,1023}", text, re.ASCII):
        return text
    raise ValueError("use a path such as /healthz, or tcp, grpc, or off")


def show_health_check(chosen: str) -> str:
    """The text that would be read back."""
    return chosen or "off"


def protocols(text: str) -> tuple[tuple[int, PortProtocol], ...]:
    """Protocols by port, in the order of the ports; port 0 stands for all others."""
    words = get_args(PortProtocol)
    found: dict[int, PortProtocol] = {}
    entries = text.split(",", MAX_ENTRIES)
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"use at most {MAX_ENTRIES} entries")
    for entry in entries:
        match = re.fullmatch(r"\s*(?:([0-9]{1,5})=)?([a-z]+)\s*", entry, re.ASCII)
        port = int(match[1] or 0) if match else -1
        if not match or match[2] not in words or not 0 <= port <= 65535 or port in found:
            raise ValueError(f"use one of {', '.join(words)}, or one for each port: 80=http,5432=tcp")
        found[port] = cast("PortProtocol", match[2])
    return tuple(sorted(found.items()))


def show_protocols(chosen: Sequence[tuple[int, PortProtocol]]) -> str:
    """The text that would be read back."""
    return ",".join(f"{port}={word}" if port else word for port, word in chosen)
