"""Which traffic goes through Envoy, as iptables rules: data in, iptables-restore text out.

`redirect.sh` applies the text in the pod's network namespace and decides nothing. Only TCP is redirected. The order of
the rules is their meaning: the first match wins.
"""

from collections.abc import Iterable, Mapping
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
        TO_ENVOY: _to_envoy(
            TO_ENVOY, wanted.opaque_outbound_ports, PORTS.opaque_outbound, PORTS.outbound, "REDIRECT --to-ports"
        ),
    }
    match wanted.mode:
        case "redirect":
            inbound = _left_alone(wanted.exclude_inbound_ports) + _inbound_to_envoy(wanted, "REDIRECT --to-ports")
            return _table("nat", _BOTH_WAYS, {IN: inbound, **outbound})
        case "tproxy":
            return _table("nat", _OUTBOUND, outbound) + _transparent(wanted)


def _outbound(wanted: Redirection, *, ipv6: bool) -> str:
    excluded = _ports(OUT, wanted.exclude_outbound_ports, "RETURN") + _never_redirected(wanted.uid, wanted.gid, ipv6)
    passed = [f"-d {cidr} -j RETURN" for cidr in wanted.exclude_outbound_cidrs if _is_ipv6(cidr) == ipv6]
    if wanted.include_outbound_cidrs:
        passed += [f"-d {cidr} -j {TO_ENVOY}" for cidr in wanted.include_outbound_cidrs if _is_ipv6(cidr) == ipv6]
    else:
        passed.append(f"-j {TO_ENVOY}")
    return excluded + _chain(OUT, passed)


@lru_cache(maxsize=8)
def _never_redirected(uid: int, gid: int, ipv6: bool) -> str:
    rules = [
        # Envoy's own traffic: redirecting it would send it round for ever.
        f"-m owner --uid-owner {uid} -j RETURN",
        f"-m owner --gid-owner {gid} -j RETURN",
        "-o lo -j RETURN",
        f"-d {'::1/128' if ipv6 else '127.0.0.1/32'} -j RETURN",
    ]
    return _chain(OUT, rules) + _ports(OUT, MESH, "RETURN")


@lru_cache(maxsize=64)
def _left_alone(excluded: tuple[PortRange, ...]) -> str:
    return _ports(IN, OPEN, "RETURN") + _ports(IN, excluded, "RETURN")


def _inbound_to_envoy(wanted: Redirection, target: str) -> str:
    return _to_envoy(IN, wanted.opaque_inbound_ports, PORTS.opaque_inbound, PORTS.inbound, target)


@lru_cache(maxsize=64)
def _to_envoy(chain: str, opaque: tuple[PortRange, ...], opaque_listener: int, listener: int, target: str) -> str:
    return _ports(chain, opaque, f"{target} {opaque_listener}") + _chain(chain, [f"-p tcp -j {target} {listener}"])


def _transparent(wanted: Redirection) -> str:
    """Inbound without address translation, so that the application sees its caller's address.

    Only a connection's first packet needs the target: the rest finds its socket by address. Envoy calls the application
    under the caller's address, with the mark; the mark on that connection brings the application's replies back to
    Envoy, not to the caller.
    """
    established = [
        f"-i lo -m mark --mark {MARK} -j CONNMARK --save-mark",
        "-i lo -j RETURN",
        "-m conntrack ! --ctstate NEW -j RETURN",
    ]
    to_envoy = _inbound_to_envoy(wanted, f"TPROXY --tproxy-mark {MARK} --on-port")
    inbound = _chain(IN, established) + _left_alone(wanted.exclude_inbound_ports) + to_envoy
    replies = _chain(OUT, [f"-m connmark --mark {MARK} -j CONNMARK --restore-mark"])
    return _table("mangle", _BOTH_WAYS, {IN: inbound, OUT: replies})


_OUTBOUND = f"-A OUTPUT -p tcp -j {OUT}\n"
_BOTH_WAYS = f"-A PREROUTING -p tcp -j {IN}\n{_OUTBOUND}"


def _table(name: str, jumps: str, chains: Mapping[str, str]) -> str:
    """A table's text. Declaring a chain makes it, or empties the one of an earlier run."""
    declared = "".join([f":{chain} - [0:0]\n" for chain in chains])
    return f"*{name}\n{declared}{jumps}{''.join(chains.values())}COMMIT\n"


def _chain(name: str, rules: Iterable[str]) -> str:
    return "".join([f"-A {name} {rule}\n" for rule in rules])


@lru_cache(maxsize=64)
def _ports(chain: str, ranges: tuple[PortRange, ...], target: str) -> str:
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
    return _chain(chain, rules)


def _multiport(ports: list[str], target: str) -> str:
    return f"-p tcp -m multiport --dports {','.join(ports)} -j {target}"


def _is_ipv6(cidr: str) -> bool:
    return ":" in cidr
