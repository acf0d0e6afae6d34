"""The small values that authors and operators write: quantities, percentages, port lists, CIDR lists, images.

Each parser takes text and returns a frozen, canonical value, or raises ValueError with what is allowed.
It knows nothing of annotations or settings.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_ENTRIES = 128  # of any list: every entry becomes an iptables rule or an xDS subscription

PortRange = tuple[int, int]
Ports = tuple[PortRange, ...]

_NANO = 10**9
_DECIMAL = {"n": 1, "u": 10**3, "m": 10**6, "": _NANO} | {
    suffix: _NANO * 1000**power for power, suffix in enumerate("kMGTPE", start=1)
}
_BINARY = {f"{suffix}i": _NANO * 1024**power for power, suffix in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(
    r"([0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:[eE]([+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]?))", re.ASCII
)
_PERCENT = re.compile(r"([0-9]{1,3})%", re.ASCII)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVICE = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})?", re.ASCII)
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9](?:[-.a-zA-Z0-9]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?"  # registry
    r"[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*"  # repository
    r"(?::[A-Za-z0-9_][-.A-Za-z0-9_]{0,127})?(?:@sha256:[a-f0-9]{64})?",  # tag, digest
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """A Kubernetes resource quantity, exact to 10^-9 of its unit (cores, bytes).

    `str()` is the form in which the API server stores it, so that what we render comes back unchanged
    (apimachinery `resource.Quantity`, "canonical form").
    """

    nano: int
    binary: bool = False

    @lru_cache(maxsize=256)  # noqa: B019  of values, not of instances: equal ones share an entry
    def __str__(self) -> str:
        kibibytes = self.nano % (1024 * _NANO) == 0
        return self._in_units(_BINARY if self.binary and kibibytes else _DECIMAL)

    def _in_units(self, units: dict[str, int]) -> str:
        fitting = [(size, suffix) for suffix, size in units.items() if self.nano and self.nano % size == 0]
        size, suffix = max(fitting, default=(1, ""))
        return f"{self.nano // size}{suffix}"

    def __add__(self, other: "Quantity") -> "Quantity":
        return Quantity(self.nano + other.nano, self.binary or other.binary)


ZERO = Quantity(0)


@dataclass(frozen=True, slots=True)
class Percent:
    """A share of what the pod's own containers ask for, 1 to 100."""

    percent: int

    def of(self, whole: Quantity, step: int) -> Quantity:
        """This share of `whole`, rounded up to a multiple of `step` nano-units."""
        share = -(-whole.nano * self.percent // 100)
        return Quantity(-(-share // step) * step, whole.binary)

    def __str__(self) -> str:
        return f"{self.percent}%"


def parse_quantity(text: str) -> Quantity:
    """A Kubernetes quantity: `250m`, `0.5`, `128Mi`, `129e6`. Negative ones are not allowed."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError("use a Kubernetes quantity, such as 100m, 0.5 or 128Mi")
    number, exponent, suffix = match.groups(default="")
    whole, _, fraction = number.partition(".")
    power = int(exponent or 0) - len(fraction)
    unit = _DECIMAL.get(suffix) or _BINARY[suffix]
    nano = -(-int(f"{whole or 0}{fraction}") * unit * 10 ** max(power, 0) // 10 ** max(-power, 0))
    if nano > 2**63 * _NANO:
        raise ValueError("the quantity is too large; the most is 8Ei")
    return Quantity(nano, suffix.endswith("i"))


def parse_cpu(text: str) -> Quantity:
    """Cores, in steps of one thousandth."""
    quantity = parse_quantity(text)
    if quantity.nano == 0 or quantity.nano % 10**6:
        raise ValueError("use a multiple of 1m of a core, at least 1m, such as 100m or 0.5")
    return quantity


def parse_memory(text: str) -> Quantity:
    """Bytes, whole ones: `128m` is a thousandth of a byte, and never what its author meant."""
    quantity = parse_quantity(text)
    if quantity.nano < _NANO or quantity.nano % _NANO:
        hint = f"; did you mean {text[:-1]}Mi?" if text.endswith("m") else ""
        raise ValueError(f"use whole bytes, such as 128Mi or 1Gi{hint}")
    return quantity


def share_or(parse: Callable[[str], Quantity]) -> Callable[[str], Quantity | Percent]:
    """A parser that also takes a percentage of what the pod's own containers ask for."""

    def parse_share(text: str) -> Quantity | Percent:
        match = _PERCENT.fullmatch(text)
        if match is None:
            return parse(text)
        if not 1 <= int(match[1]) <= 100:
            raise ValueError("use a percentage from 1% to 100%")
        return Percent(int(match[1]))

    return parse_share


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`."""

    def parse_integer(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(text)

    return parse_integer


def parse_ports(text: str) -> Ports:
    """Ports and ranges, `8080,9000-9010`; sorted, overlapping and adjacent ones merged."""
    return merge_ports(_parse_port(entry) for entry in _entries(text))


def _parse_port(entry: str) -> PortRange:
    match = _PORT.fullmatch(entry)
    if match is not None:
        first = int(match[1])
        last = int(match[2] or first)
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError(f"{quote(entry)} is no port; use ports from 1 to 65535 and ranges, such as 8080,9000-9010")


def merge_ports(ranges: Iterable[PortRange]) -> Ports:
    """The same ports in the fewest ranges, in order."""
    merged: list[PortRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def contains(ports: Ports, port: int) -> bool:
    """Whether `port` lies in one of the ranges."""
    return any(first <= port <= last for first, last in ports)


def show_ports(ports: Ports) -> str:
    """The text that `parse_ports` would read back."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports)


def parse_cidrs(text: str) -> tuple[str, ...]:
    """IPv4 and IPv6 networks in canonical form, without duplicates, in the order given."""
    return tuple(dict.fromkeys(_parse_cidr(entry) for entry in _entries(text)))


def _parse_cidr(entry: str) -> str:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        network = None
    _, slash, length = entry.partition("/")
    if network is None or "%" in entry or (slash and str(network.prefixlen) != length):
        raise ValueError(f"{quote(entry)} is no network; use CIDRs, such as 10.0.0.0/8 or fd00::/8") from None
    address = ipaddress.ip_interface(entry).ip
    if address != network.network_address:
        raise ValueError(f"{quote(entry)} has bits set behind its prefix; did you mean {network} or {address}?")
    return str(network)


def parse_services(text: str) -> tuple[str, ...]:
    """Names of Services, `orders` or `orders.shop`, without duplicates, in the order given."""
    for entry in _entries(text):
        if not _SERVICE.fullmatch(entry):
            raise ValueError(f"{quote(entry)} is no Service; use NAME or NAME.NAMESPACE, such as orders.shop")
    return tuple(dict.fromkeys(_entries(text)))


def parse_image(text: str) -> str:
    """A container image reference: `registry/repository:tag` or `…@sha256:digest`."""
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        raise ValueError("use an image reference, such as registry.example/envoy:v1.40.0")
    return text


def one_of(*allowed: str) -> Callable[[str], str]:
    """A parser for one of a few words, that names the nearest right one."""

    def parse_word(text: str) -> str:
        if text in allowed:
            return text
        raise ValueError(f"use one of {', '.join(allowed)}{did_you_mean(text, allowed)}")

    return parse_word


def did_you_mean(text: str, allowed: Iterable[str]) -> str:
    """`; did you mean X?` when something allowed is near enough, else nothing."""
    import difflib

    near = difflib.get_close_matches(text[:64].lower(), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def quote(text: str, limit: int = 40) -> str:
    """What a person wrote, in quotation marks, safe to print."""
    return f'"{printable(text, limit)}"'


def printable(text: str, limit: int = 253) -> str:
    """What a person wrote, safe to print on one line: shortened, nothing unprintable in it."""
    shown = "".join(char if char.isprintable() else "�" for char in text[:limit])
    return shown + ("…" if len(text) > limit else "")


def _entries(text: str) -> list[str]:
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{len(entries)} entries are too many; the most is {MAX_ENTRIES}")
    return entries
