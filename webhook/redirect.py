"""Which traffic goes through Envoy, as iptables rules: data in, iptables-restore text out.

`redirect.sh` applies the text in the pod's network namespace and decides nothing. Only TCP is redirected. The order of
the rules is their meaning: the first match wins.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from webhook.settings import PORTS
from webhook.values import PortRange

__all__ = ["Redirection", "Rules", "render"]

IN, OUT, TO_ENVOY = "ENVOY_SIDECAR_IN", "ENVOY_SIDECAR_OUT", "ENVOY_SIDECAR_TO_ENVOY"
MARK = "0x539"  # redirect.sh routes packets with this mark to the pod itself
MULTIPORT_MAX = 15  # ports in one multiport match; a range counts as two (iptables-extensions(8))


def _single(*ports: int) -> tuple[PortRange, ...]:
    return tuple((port, port) for port in ports)


# For probes and monitors, which reach these from outside without Envoy in between.
OPEN = _single(PORTS.probes, PORTS.ready, PORTS.metrics)
# Of another pod: Envoy's `use_original_dst` would answer itself, from its own listener of that port.
MESH = _single(*PORTS.redirecting) + OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirection:
    """What is redirected. Ports are inclusive ranges; CIDRs are canonical and of either family.

    `include_outbound_cidrs`, unless empty, are the only destinations that are redirected.
    """

    mode: Literal["redirect", "tproxy"]
    uid: int
    gid: int
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    opaque_inbound_ports: tuple[PortRange, ...] = ()
    opaque_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[str, ...] = ()
    include_outbound_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """The input of `iptables-restore --noflush` and of `ip6tables-restore --noflush`."""

    ipv4: str
    ipv6: str


@lru_cache(maxsize=64)
def render(wanted: Redirection) -> Rules:
    """The rules for both families."""
    return Rules(ipv4=_family(wanted, ipv6=False), ipv6=_family(wanted, ipv6=True))


def _family(wanted: Redirection, *, ipv6: bool) -> str:
    outbound = {
        OUT: _outbound(wanted, ipv6=ipv6),
        TO_ENVOY: _to_envoy(wanted.opaque_outbound_ports, PORTS.opaque_outbound, PORTS.outbound, "REDIRECT --to-ports"),
    }
    match wanted.mode:
        case "redirect":
            inbound = [*_left_alone(wanted), *_inbound_to_envoy(wanted, "REDIRECT --to-ports")]
            return _table("nat", {"PREROUTING": IN, "OUTPUT": OUT}, {IN: inbound, **outbound})
        case "tproxy":
            return _table("nat", {"OUTPUT": OUT}, outbound) + _transparent(wanted)


def _outbound(wanted: Redirection, *, ipv6: bool) -> Iterator[str]:
    yield from _ports(wanted.exclude_outbound_ports, "RETURN")
    # Envoy's own traffic: redirecting it would send it round for ever.
    yield f"-m owner --uid-owner {wanted.uid} -j RETURN"
    yield f"-m owner --gid-owner {wanted.gid} -j RETURN"
    yield "-o lo -j RETURN"
    yield f"-d {'::1/128' if ipv6 else '127.0.0.1/32'} -j RETURN"
    yield from _ports(MESH, "RETURN")
    yield from (f"-d {cidr} -j RETURN" for cidr in wanted.exclude_outbound_cidrs if _is_ipv6(cidr) == ipv6)
    if wanted.include_outbound_cidrs:
        yield from (f"-d {cidr} -j {TO_ENVOY}" for cidr in wanted.include_outbound_cidrs if _is_ipv6(cidr) == ipv6)
    else:
        yield f"-j {TO_ENVOY}"


def _left_alone(wanted: Redirection) -> Iterator[str]:
    yield from _ports(OPEN, "RETURN")
    yield from _ports(wanted.exclude_inbound_ports, "RETURN")


def _inbound_to_envoy(wanted: Redirection, target: str) -> Iterator[str]:
    return _to_envoy(wanted.opaque_inbound_ports, PORTS.opaque_inbound, PORTS.inbound, target)


def _to_envoy(opaque: tuple[PortRange, ...], opaque_listener: int, listener: int, target: str) -> Iterator[str]:
    yield from _ports(opaque, f"{target} {opaque_listener}")
    yield f"-p tcp -j {target} {listener}"


def _transparent(wanted: Redirection) -> str:
    """Inbound without address translation, so that the application sees its caller's address.

    Only a connection's first packet needs the target: the rest finds its socket by address. Envoy calls the application
    under the caller's address, with the mark; the mark on that connection brings the application's replies back to
    Envoy, not to the caller.
    """
    inbound = [
        f"-i lo -m mark --mark {MARK} -j CONNMARK --save-mark",
        "-i lo -j RETURN",
        "-m conntrack ! --ctstate NEW -j RETURN",
        *_left_alone(wanted),
        *_inbound_to_envoy(wanted, f"TPROXY --tproxy-mark {MARK} --on-port"),
    ]
    replies = [f"-m connmark --mark {MARK} -j CONNMARK --restore-mark"]
    return _table("mangle", {"PREROUTING": IN, "OUTPUT": OUT}, {IN: inbound, OUT: replies})


def _table(name: str, jumps: Mapping[str, str], chains: Mapping[str, Iterable[str]]) -> str:
    """A table's text. Declaring a chain makes it, or empties the one of an earlier run."""
    lines = [f"*{name}", *(f":{chain} - [0:0]" for chain in chains)]
    lines += [f"-A {hook} -p tcp -j {chain}" for hook, chain in jumps.items()]
    lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


@lru_cache(maxsize=64)
def _ports(ranges: tuple[PortRange, ...], target: str) -> tuple[str, ...]:
    """Rules for TCP to any of these ports, as many to a rule as it takes."""
    rules: list[str] = []
    batch: list[str] = []
    used = 0
    for first, last in ranges:
        size = 1 if first == last else 2
        if used + size > MULTIPORT_MAX:
            rules.append(_multiport(batch, target))
            batch, used = [], 0
        batch.append(f"{first}" if first == last else f"{first}:{last}")
        used += size
    if batch:
        rules.append(_multiport(batch, target))
    return tuple(rules)


def _multiport(ports: list[str], target: str) -> str:
    return f"-p tcp -m multiport --dports {','.join(ports)} -j {target}"


def _is_ipv6(cidr: str) -> bool:
    return ":" in cidr
