"""Which of a pod's calls its sidecar sees: read from the pods that the webhook makes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.xds import redirection
from controlplane.xds.redirection import Redirection, Seen, Unseen
from tests import build
from webhook.values import parse_ports

ADDRESS = "10.96.0.10"


def injected(annotations: dict[str, str] | None = None, by: str = "{}") -> Redirection:
    """Of a pod with these annotations, injected under the settings in this YAML."""
    return of(build.injected(build.pod(annotations), by=build.operator(by)))


def of(pod: build.Document) -> Redirection:
    found = redirection.read(pod)
    assert found is not None
    return found


def why(found: Seen | Unseen) -> str:
    """Why no sidecar sees it."""
    assert isinstance(found, Unseen), found
    return found.why


def test_what_nothing_is_said_of_is_seen() -> None:
    assert injected().of(ADDRESS, 80) == Seen()


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
@pytest.mark.parametrize("port", [80, 9005])
def test_an_excluded_port_is_not_seen_and_its_annotation_is_named(mode: str, port: int) -> None:
    found = injected({"exclude-outbound-ports": "80, 9000-9010"}, f"sidecar: {{mode: {mode}}}")
    assert why(found.of(ADDRESS, port)).endswith(
        "the pod's annotation envoy-sidecar.io/exclude-outbound-ports: 80, 9000-9010"
    )


@pytest.mark.parametrize("annotations", [{}, {"exclude-outbound-ports": "81"}])
def test_what_the_annotation_does_not_exclude_the_setting_does(annotations: dict[str, str]) -> None:
    found = injected(annotations, "redirect: {excludeOutboundPorts: [80]}")
    assert why(found.of(ADDRESS, 80)) == "port 80 is excluded, by the setting redirect.excludeOutboundPorts"


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 9)), min_size=1, max_size=20), st.data())
def test_the_ports_that_are_seen_are_those_that_are_not_excluded(
    ranges: list[tuple[int, int]], data: st.DataObject
) -> None:
    text = ",".join(f"{first}-{min(first + more, 65535)}" for first, more in ranges)
    listed = [port for first, last in parse_ports(text) for port in (first - 1, first, last, last + 1)]
    port = data.draw(st.sampled_from([port for port in listed if 1 <= port <= 65535]))
    is_excluded = any(first <= port <= last for first, last in parse_ports(text))
    own = port in (15001, 15003, 15006, 15007, 15020, 15021, 15090)
    assert isinstance(injected({"exclude-outbound-ports": text}).of(ADDRESS, port), Unseen) is (is_excluded or own)


@pytest.mark.parametrize(("address", "network"), [(ADDRESS, "10.0.0.0/8"), ("fd96::1", "fd00::/8")])
def test_an_excluded_network_is_not_seen(address: str, network: str) -> None:
    found = injected({"exclude-outbound-cidrs": "10.0.0.0/8,fd00::/8"})
    assert why(found.of(address, 80)).startswith(f"{address} is in {network}, excluded by the pod's annotation")
    assert found.of("192.0.2.1", 80) == found.of("2001:db8::1", 80) == Seen()


def test_only_included_networks_are_seen_if_there_are_some() -> None:
    found = injected({"include-outbound-cidrs": "10.0.0.0/8"})
    assert found.of(ADDRESS, 80) == Seen()
    listed = "no network that the pod's annotation envoy-sidecar.io/include-outbound-cidrs: 10.0.0.0/8 lists"
    assert why(found.of("192.0.2.1", 80)) == f"192.0.2.1 is in {listed}"
    assert why(found.of("fd96::1", 80)) == f"fd96::1 is in {listed}"


def test_where_the_address_is_not_known_the_networks_are_told() -> None:
    found = injected({"exclude-outbound-cidrs": "10.0.0.0/8", "include-outbound-cidrs": "192.0.2.0/24,fd00::/8"})
    assert found.of("", 80) == Seen(
        unless="its address is in 10.0.0.0/8, excluded by the pod's annotation "
        "envoy-sidecar.io/exclude-outbound-cidrs: 10.0.0.0/8, or its address is in none of 192.0.2.0/24, fd00::/8, "
        "which the pod's annotation envoy-sidecar.io/include-outbound-cidrs: 192.0.2.0/24,fd00::/8 lists"
    )


@pytest.mark.parametrize(
    ("annotations", "by"),
    [
        ({}, "the setting redirect.opaqueOutboundPorts"),
        ({"opaque-outbound-ports": "3306"}, "the pod's annotation envoy-sidecar.io/opaque-outbound-ports: 3306"),
    ],
)
def test_an_opaque_port_is_seen_as_tcp(annotations: dict[str, str], by: str) -> None:
    assert injected(annotations).of(ADDRESS, 3306) == Seen(opaque=f"port 3306 is opaque, by {by}")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_is_not_seen(address: str) -> None:
    assert why(injected().of(address, 80)) == "loopback is not redirected"


def test_the_ports_of_other_sidecars_are_not_seen() -> None:
    assert why(injected().of(ADDRESS, 15090)) == "port 15090 is one that sidecars listen on themselves"


def test_mode_none_redirects_nothing() -> None:
    pod = build.injected(build.pod({"mode": "none"}), "restricted")
    assert why(of(pod).of(ADDRESS, 80)).startswith(
        "nothing is redirected, by the pod's annotation envoy-sidecar.io/mode: none"
    )
    assert "by the setting sidecar.mode" in why(injected(by="sidecar: {mode: none}").of(ADDRESS, 80))


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (build.pod(hostNetwork=True), "uses the host's network (spec.hostNetwork)"),
        (build.pod(labels={"envoy-sidecar.io/inject": "disabled"}), "label envoy-sidecar.io/inject: disabled opts out"),
        (build.pod(), "`python -m webhook explain` says whether it would get one today"),
    ],
)
def test_a_pod_without_a_sidecar_says_why(pod: build.Document, words: str) -> None:
    assert words in why(of(pod).of(ADDRESS, 80))


@pytest.mark.parametrize("form", ["native", "classic"])
def test_either_form_of_the_sidecar_is_known(form: str) -> None:
    assert injected({"sidecar": form}).of(ADDRESS, 80) == Seen()


def test_annotations_that_were_changed_since_change_nothing() -> None:
    pod = build.injected(build.pod({"exclude-outbound-ports": "80"}))
    pod["metadata"]["annotations"]["envoy-sidecar.io/exclude-outbound-ports"] = "everything"
    assert why(of(pod).of(ADDRESS, 80)) == "port 80 is excluded, by the setting redirect.excludeOutboundPorts"
    assert of(pod).of(ADDRESS, 443) == Seen()


def with_rules(*lines: str) -> build.Document:
    """A pod whose init container applies these rules before its own."""
    pod = build.injected(build.pod())
    for variable in build.named(pod["spec"]["initContainers"], "envoy-sidecar-init")["env"]:
        if variable["name"].startswith("IPTABLES"):
            variable["value"] = variable["value"].replace("-A", "\n".join([*lines, "-A"]), 1)
    return pod


def without_rules() -> build.Document:
    pod = build.injected(build.pod())
    build.named(pod["spec"]["initContainers"], "envoy-sidecar-init")["env"].clear()
    return pod


def test_rules_before_ours_decide_first() -> None:
    assert isinstance(of(with_rules("-A ENVOY_SIDECAR_OUT -d 10.0.0.0/8 -j RETURN")).of(ADDRESS, 80), Unseen)


@pytest.mark.parametrize(
    "raw",
    [
        {"metadata": {"name": "web-1"}, "spec": {"containers": []}},
        {"metadata": {"name": "web-1"}},
        {"metadata": {"name": "web-1"}, "spec": {"containers": "many"}},
        without_rules(),
        with_rules("-A ENVOY_SIDECAR_OUT ! -d 10.0.0.0/8 -j RETURN"),
        with_rules("-A ENVOY_SIDECAR_OUT -m mark --mark 1 -j RETURN"),
        "web-1",
    ],
    ids=["no containers", "only metadata", "no list", "no rules", "a negation", "another match", "no object"],
)
def test_of_a_pod_that_does_not_say_nothing_is_said(raw: Any) -> None:
    assert redirection.read(raw) is None
