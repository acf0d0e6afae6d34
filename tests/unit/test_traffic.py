"""What `explain` says of a pod's traffic, listeners and probes."""

from typing import Any

import pytest

from tests import build
from tests.build import Document
from webhook import choices, injection, traffic
from webhook.settings import Settings

PORTS: list[Document] = [{"name": "http", "containerPort": 8080}, {"name": "db", "containerPort": 3306}]
EXCLUDED = {"exclude-inbound-ports": "9000-9010"}


def tables(document: Document, by: Settings = build.DEFAULTS) -> list[list[tuple[str, str, str]]]:
    parsed = choices.parse(document["metadata"].get("annotations", {}), by)
    return list(traffic.tables(document, parsed.choices, by))


def rules(annotations: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
    return tables(build.pod(annotations or {}))[0][1:]


def probe(written: Document, *, field: str = "readinessProbe", annotations: Any = EXCLUDED) -> tuple[str, str, str]:
    document = build.pod(annotations, containers=[{**build.container(ports=PORTS), field: written}])
    (row,) = tables(document)[2][1:]
    return row


def test_every_listener_is_named_with_its_port_and_its_use() -> None:
    with_probe = build.pod(containers=[build.container(livenessProbe={"tcpSocket": {"port": 80}})])
    found = {name: where for name, where, _ in tables(with_probe)[1][1:]}
    assert found == {
        "outbound": ":15001",
        "inbound": ":15006",
        "opaque-outbound": ":15003",
        "opaque-inbound": ":15007",
        "metrics": ":15090",
        "ready": ":15021",
        "probes": "the pod's address:15020",
    }


def test_the_proxy_of_mode_none_is_named() -> None:
    assert "127.0.0.1:15002" in [where for _, where, _ in tables(build.pod({"mode": "none"}))[1]]


def test_mode_none_redirects_nothing() -> None:
    assert [row[:2] for row in rules({"mode": "none"})] == [("any", "all")]


def test_the_mode_that_keeps_the_callers_address_says_so() -> None:
    assert ("in", "all other TCP", "Envoy :15006, keeping the caller's address") in rules({"mode": "tproxy"})


@pytest.mark.parametrize(
    ("annotations", "row"),
    [
        ({}, ("in", "all other TCP", "Envoy :15006")),
        ({}, ("out", "all other TCP", "Envoy :15001")),
        ({}, ("any", "UDP", "directly")),
        (EXCLUDED, ("in", "to 9000-9010", "directly: exclude-inbound-ports")),
        ({"opaque-inbound-ports": "9092"}, ("in", "to 9092", "Envoy :15007, as plain TCP")),
        ({"exclude-outbound-ports": "6379"}, ("out", "to 6379", "directly: exclude-outbound-ports")),
        ({"exclude-outbound-cidrs": "10.0.0.0/8"}, ("out", "to 10.0.0.0/8", "directly: exclude-outbound-cidrs")),
        ({"include-outbound-cidrs": "10.0.0.0/8"}, ("out", "to 10.0.0.0/8", "Envoy :15001")),
        ({"include-outbound-cidrs": "10.0.0.0/8"}, ("out", "all other TCP", "directly: include-outbound-cidrs")),
    ],
)
def test_each_rule_is_a_row(annotations: dict[str, str], row: tuple[str, str, str]) -> None:
    assert row in rules(annotations)


@pytest.mark.parametrize(
    ("written", "asks", "way"),
    [
        ({"httpGet": {"port": "http", "path": "/x"}}, "GET http://:http/x", "through Envoy, as written"),
        ({"httpGet": {"port": 8080, "scheme": "HTTPS"}}, "GET https://:8080/", "through Envoy, as written"),
        ({"grpc": {"port": 8080}}, "grpc :8080", "through Envoy, as written"),
        ({"httpGet": {"port": 80, "host": "a.b"}}, "GET http://a.b:80/", "to another host"),
        ({"httpGet": {"port": 9001}}, "GET http://:9001/", "directly: exclude-inbound-ports"),
        ({"tcpSocket": {"port": 9010}}, "tcp :9010", "directly: exclude-inbound-ports"),
        (
            {"tcpSocket": {"port": "db"}},
            "tcp :db",
            "asked of the sidecar, which connects to the port: GET :15020/tcp/3306",
        ),
        ({"tcpSocket": {"port": "dbb"}}, "tcp :dbb", "as written: the container declares no such port"),
        ({"tcpSocket": {"port": 15090}}, "tcp :15090", "as written: the port is the sidecar's own"),
        ({"exec": {"command": ["true"]}}, "exec", "inside the container"),
    ],
)
def test_each_probe_is_told_how_it_gets_there(written: Document, asks: str, way: str) -> None:
    assert probe(written) == ("app readinessProbe", asks, way)


def test_in_mode_none_every_probe_reaches_the_application_directly() -> None:
    assert (
        probe({"tcpSocket": {"port": 80}}, annotations={"mode": "none"})[2] == "directly: mode none redirects nothing"
    )


@pytest.mark.parametrize(
    ("handler", "asks", "way"),
    [
        ({"httpGet": {"port": 8080, "path": "/stop"}}, "GET http://:8080/stop", "through Envoy, as written"),
        ({"tcpSocket": {"port": 8080}}, "tcp :8080", "never: the kubelet knows no such hook"),
        ({"sleep": {"seconds": 5}}, "sleep", "inside the container"),
    ],
)
def test_each_hook_is_told_how_it_gets_there(handler: Document, asks: str, way: str) -> None:
    assert probe({"preStop": handler}, field="lifecycle") == ("app preStop", asks, way)


def test_a_pod_that_has_its_sidecar_is_explained_as_its_author_wrote_it() -> None:
    written = build.pod({}, containers=[build.container(readinessProbe={"tcpSocket": {"port": 80}})])
    assert tables(dict(injection.authored(build.injected(written)))) == tables(written)
