"""Which of a pod's calls its sidecar sees: by the rules that its init container applies, as they stand in the pod.

These, and not the annotations, are what holds: annotations and settings may be others since. They only say why. The
source of the rules is webhook/redirect.py; of a pod with rules of another kind, nothing is said.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import msgspec

from controlplane.ports import PORTS
from controlplane.xds import objects
from controlplane.xds.annotations import PREFIX

LABEL = f"{PREFIX}inject"
_SIDECAR, _INIT = "envoy-sidecar", "envoy-sidecar-init"
_VARIABLES = {4: "IPTABLES_RULES_IPV4", 6: "IPTABLES_RULES_IPV6"}  # of the init container, by family
_OUT, _TO_ENVOY = "ENVOY_SIDECAR_OUT", "ENVOY_SIDECAR_TO_ENVOY"
_NOT_THE_APPLICATION = frozenset({"--uid-owner", "--gid-owner", "-o"})  # Envoy's own, and the loopback interface
_OPTIONS = _NOT_THE_APPLICATION | {"-A", "-p", "-m", "--dports", "-d", "-j", "--to-ports"}
_OWN_PORTS = (*PORTS.redirecting, PORTS.probes, PORTS.ready, PORTS.metrics)

_Network = IPv4Network | IPv6Network
_Ports = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One for what the application sends; `target` is RETURN, a chain, or the port of a listener.

    Without `ports`, inclusive ranges, or `network`, it is for all of them.
    """

    target: str
    ports: _Ports = ()
    network: _Network | None = None

    def fits(self, address: str, port: int) -> bool:
        """An address that is not known is in what is included, and not in what is excluded."""
        if self.network is not None and address:
            return ipaddress.ip_address(address) in self.network
        if self.network is not None and self.target == "RETURN":
            return False
        return not self.ports or any(first <= port <= last for first, last in self.ports)


Chains = Mapping[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class Seen:
    """The sidecar takes the connection. `opaque` is why it takes it as TCP, whatever it is.

    `unless` is about addresses, where only the application knows which it dials.
    """

    opaque: str = ""
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Unseen:
    """It goes past the sidecar, to where it is dialled."""

    why: str


@dataclass(frozen=True, slots=True)
class Redirection:
    """What becomes of a pod's outgoing connections. `nothing`, if it is not empty, is why its sidecar sees none."""

    nothing: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[int, Chains] = field(default_factory=dict)  # by family

    def of(self, address: str, port: int) -> Seen | Unseen:
        """A connection to that port of an IP address, which may be empty: not known."""
        if self.nothing:
            return Unseen(self.nothing)
        if address and ipaddress.ip_address(address).is_loopback:
            return Unseen("loopback is not redirected")
        chains = self.rules[6 if ":" in address else 4]
        rule = _first(chains[_OUT], address, port)
        if rule is not None and rule.target == _TO_ENVOY:
            rule = _first(chains[_TO_ENVOY], address, port)
        if rule is None:
            return Unseen(f"{address} is in no network that {self._by('include-outbound-cidrs')} lists")
        if rule.target == "RETURN":
            return Unseen(self._excluded(rule, address, port))
        opaque = rule.target == str(PORTS.opaque_outbound)
        return Seen(
            opaque=f"port {port} is opaque, by {self._by('opaque-outbound-ports', port)}" if opaque else "",
            unless="" if address else self._unless(),
        )

    def _excluded(self, rule: Rule, address: str, port: int) -> str:
        if rule.network is not None:
            return f"{address} is in {rule.network}, excluded by {self._by('exclude-outbound-cidrs', rule.network)}"
        if port in _OWN_PORTS:
            return f"port {port} is one that sidecars listen on themselves"
        return f"port {port} is excluded, by {self._by('exclude-outbound-ports', port)}"

    def _unless(self) -> str:
        named = [(rule.target, rule.network) for chains in self.rules.values() for rule in chains[_OUT] if rule.network]
        excluded = [network for target, network in named if target == "RETURN" and not network.is_loopback]
        included = [network for target, network in named if target != "RETURN"]
        texts = []
        if excluded:
            by = self._by("exclude-outbound-cidrs", *excluded)
            texts.append(f"its address is in {', '.join(map(str, excluded))}, excluded by {by}")
        if included:
            by = self._by("include-outbound-cidrs")
            texts.append(f"its address is in none of {', '.join(map(str, included))}, which {by} lists")
        return ", or ".join(texts)

    def _by(self, name: str, *listed: int | _Network) -> str:
        """Who said so: the annotation, if it is there and lists one of these; else the operator."""
        text = self.annotations.get(PREFIX + name)
        if text is not None and (not listed or any(_lists(text, one) for one in listed)):
            return f"the pod's annotation {PREFIX}{name}: {text}"
        first, *rest = name.split("-")
        return f"the setting redirect.{first}{''.join(map(str.capitalize, rest))}"


def read(raw: Any) -> Redirection | None:
    """A Pod with its spec, as JSON; None if it does not say: it has no containers, or rules of another kind."""
    try:
        pod = objects.convert(raw, objects.WholePod)
        containers = {one.name: one for one in (*(pod.spec.init_containers or ()), *(pod.spec.containers or ()))}
        annotations = pod.metadata.annotations or {}
        if not containers:
            return None
        if _SIDECAR not in containers:
            return Redirection(_no_sidecar(pod))
        if _INIT not in containers:
            return Redirection(_no_redirection(annotations))
        given = {one.name: one.value or "" for one in containers[_INIT].env or ()}
        return Redirection("", annotations, {family: _chains(given[name]) for family, name in _VARIABLES.items()})
    except (msgspec.ValidationError, RecursionError, KeyError, ValueError):
        return None


def _no_sidecar(pod: objects.WholePod) -> str:
    if pod.spec.host_network:
        return "the pod has no sidecar, for it uses the host's network (spec.hostNetwork)"
    if (pod.metadata.labels or {}).get(LABEL) == "disabled":
        return f"the pod has no sidecar, for its label {LABEL}: disabled opts out"
    return "the pod has no sidecar; `python -m webhook explain` says whether it would get one today"


def _no_redirection(annotations: Mapping[str, str]) -> str:
    text = annotations.get(f"{PREFIX}mode")
    by = f"the pod's annotation {PREFIX}mode: {text}" if text else "the setting sidecar.mode"
    return (
        f"nothing is redirected, by {by}. Only what the application itself sends to 127.0.0.1:{PORTS.explicit} passes "
        "the sidecar, which hands it on to the host that it names, as it is"
    )


def _chains(text: str) -> Chains:
    """The two chains for what is sent, of iptables' nat table. Raises KeyError or ValueError for other rules."""
    table = text.partition("*nat\n")[2].partition("COMMIT")[0]
    chains: dict[str, tuple[Rule, ...]] = {_OUT: (), _TO_ENVOY: ()}
    for line in table.splitlines():
        words = line.split()
        if words[:1] != ["-A"] or words[1] not in chains:
            continue
        options = dict(zip(words[::2], words[1::2], strict=True))
        if not options.keys() <= _OPTIONS:
            raise ValueError(line)
        if _NOT_THE_APPLICATION.isdisjoint(options):
            chains[words[1]] += (_rule(options),)
    if not all(chains.values()):
        raise ValueError(text)
    return chains


def _rule(options: Mapping[str, str]) -> Rule:
    return Rule(
        target=options.get("--to-ports") or options["-j"],
        ports=_ports(options.get("--dports", "").replace(":", "-")),
        network=ipaddress.ip_network(options["-d"]) if "-d" in options else None,
    )


def _first(rules: tuple[Rule, ...], address: str, port: int) -> Rule | None:
    """The rule that decides."""
    return next((rule for rule in rules if rule.fits(address, port)), None)


def _lists(text: str, one: int | _Network) -> bool:
    """Whether the value of an annotation, which may have been changed to anything since, names that."""
    try:
        if isinstance(one, int):
            return any(first <= one <= last for first, last in _ports(text))
        return one in [ipaddress.ip_network(entry.strip()) for entry in text.split(",")]
    except ValueError:
        return False


def _ports(text: str) -> _Ports:
    """`80,9000-9010`. Raises ValueError."""
    pairs = (entry.strip().partition("-") for entry in text.split(",") if entry.strip())
    return tuple((int(first), int(last or first)) for first, _, last in pairs)
