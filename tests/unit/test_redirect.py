"""The redirection rules: which come, in which order, within iptables' limits."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.redirect import MULTIPORT_MAX, Redirection, render

PLAIN = Redirection(mode="redirect", uid=1337, gid=1337)

Ranges = tuple[tuple[int, int], ...]
ranges = st.lists(
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair))), max_size=128
).map(tuple)


def chain(text: str, name: str) -> list[str]:
    """The rules of that chain, in order."""
    return [line.removeprefix(f"-A {name} ") for line in text.splitlines() if line.startswith(f"-A {name} ")]


def matched(rules: list[str], target: str) -> list[list[str]]:
    """The port lists of the rules that lead to `target`."""
    return [rule.split()[5].split(",") for rule in rules if "--dports" in rule and rule.endswith(f"-j {target}")]


@given(ranges)
def test_no_rule_matches_more_ports_than_iptables_takes(excluded: Ranges) -> None:
    rules = chain(render(replace(PLAIN, exclude_outbound_ports=excluded)).ipv4, "ENVOY_SIDECAR_OUT")
    for ports in matched(rules, "RETURN"):
        assert sum(1 + (":" in port) for port in ports) <= MULTIPORT_MAX


@given(ranges)
def test_every_port_is_in_a_rule_in_the_order_given(opaque: Ranges) -> None:
    rules = chain(render(replace(PLAIN, opaque_inbound_ports=opaque)).ipv4, "ENVOY_SIDECAR_IN")
    written = [port for ports in matched(rules, "REDIRECT --to-ports 15007") for port in ports]
    assert written == [f"{first}" if first == last else f"{first}:{last}" for first, last in opaque]


@given(ranges)
def test_every_port_match_says_tcp_in_the_same_rule(ports: Ranges) -> None:
    text = render(replace(PLAIN, exclude_inbound_ports=ports, opaque_outbound_ports=ports)).ipv4
    assert all("-p tcp -m multiport" in line for line in text.splitlines() if "--dports" in line)


def test_outbound_exceptions_come_in_the_order_that_gives_them_their_meaning() -> None:
    wanted = replace(PLAIN, exclude_outbound_ports=((22, 22),), exclude_outbound_cidrs=("10.0.0.0/8",))
    assert chain(render(wanted).ipv4, "ENVOY_SIDECAR_OUT") == [
        "-p tcp -m multiport --dports 22 -j RETURN",
        "-m owner --uid-owner 1337 -j RETURN",
        "-m owner --gid-owner 1337 -j RETURN",
        "-o lo -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-p tcp -m multiport --dports 15001,15003,15006,15007,15020,15021,15090 -j RETURN",
        "-d 10.0.0.0/8 -j RETURN",
        "-j ENVOY_SIDECAR_TO_ENVOY",
    ]


def test_cidrs_go_to_the_rules_of_their_family() -> None:
    rules = render(replace(PLAIN, exclude_outbound_cidrs=("10.0.0.0/8", "fd00::/8")))
    assert "-d 10.0.0.0/8 -j RETURN" in rules.ipv4
    assert "-d fd00::/8 -j RETURN" in rules.ipv6
    assert "fd00::/8" not in rules.ipv4
    assert "10.0.0.0/8" not in rules.ipv6


def test_with_includes_of_one_family_nothing_of_the_other_is_redirected() -> None:
    rules = render(replace(PLAIN, include_outbound_cidrs=("10.0.0.0/8",)))
    assert not any(rule.endswith("TO_ENVOY") for rule in chain(rules.ipv6, "ENVOY_SIDECAR_OUT"))


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
def test_there_is_one_jump_from_each_hook(mode: Literal["redirect", "tproxy"]) -> None:
    text = render(replace(PLAIN, mode=mode)).ipv4
    for table in text.split("*")[1:]:
        jumps = [line for line in table.splitlines() if line.startswith(("-A PREROUTING", "-A OUTPUT"))]
        assert len({jump.split()[1] for jump in jumps}) == len(jumps)


def test_equal_redirections_are_rendered_once() -> None:
    assert render(PLAIN) is render(replace(PLAIN))
