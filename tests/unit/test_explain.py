"""`explain` and `render`: what they say is what Envoy is told."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.__main__ import main
from controlplane.xds import clusters, explain, redirection
from controlplane.xds.annotations import TABLE, Annotation
from controlplane.xds.destinations import Called
from controlplane.xds.mesh import Key
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from tests import build
from tests.cluster import WEB, endpoint, node, service, slice_of, terminating, translated

ROOT = Path(__file__).parents[2]
CLUSTER = Choices(scope=Scope(default="cluster"))


def told(
    of: Translated,
    url: str,
    by: Caller = WEB,
    method: str = "GET",
    choices: Choices | None = None,
    pod: build.Document | None = None,
) -> str:
    redirected = redirection.read(pod) if pod else None
    return " ".join(explain.request(of, choices or Choices(), by, redirected, url, method))


@pytest.mark.parametrize(
    "url",
    ["orders", "orders:80", "http://orders/path", "orders.shop", "http://orders.shop.svc.cluster.local/", "10.96.0.10"],
)
def test_a_service_is_found_by_every_name_that_it_has(url: str) -> None:
    assert "Cluster shop/orders:80." in told(translated(service(), slice_of()), url)


def test_a_host_that_is_no_service_passes_through() -> None:
    assert "passes through to the address that was dialled" in told(translated(), "http://example.com")


@pytest.mark.parametrize("url", ["orders:80", "orders.shop"])
def test_a_service_that_cannot_be_used_is_told_with_the_reason(url: str) -> None:
    unusable = {**service(), "spec": None}
    assert "Service shop/orders cannot be used (" in told(translated(unusable), url)


def test_what_is_wrong_with_a_service_is_told_though_no_sidecar_sees_the_request() -> None:
    pod = build.pod(hostNetwork=True)
    assert "Wrong with Service shop/orders" in told(
        translated(service(annotations={"retries": "x"})), "orders", pod=pod
    )


def test_endpoints_are_named_in_the_order_of_preference() -> None:
    near = endpoint("10.0.0.1", hints={"forZones": [{"name": "eu-1a"}]})
    far = endpoint("10.0.0.2", hints={"forZones": [{"name": "eu-1b"}]})
    of = translated(
        service(trafficDistribution="PreferClose"),
        slice_of(endpoints=[near, far]),
        node("n1", "eu-1a"),
    )
    by = Caller("shop", "web-1", node="n1", zone="eu-1a")
    assert "in the caller's zone first, 10.0.0.1:8080. Else: 10.0.0.2:8080." in told(of, "orders", by)


@pytest.mark.parametrize(
    ("distribution", "nodes", "said"),
    [
        (
            "PreferSameNode",
            ("n1", "n2"),
            "on the caller's node first, 10.0.0.1:8080. Else: in the caller's zone, 10.0.0.2",
        ),
        ("PreferSameNode", ("n2",), "none is on the caller's node, so in the caller's zone first, 10.0.0.1:8080."),
        ("PreferSameNode", ("n3",), "none is on the caller's node, so 10.0.0.1:8080."),
        ("PreferSameZone", ("n3",), "none is in the caller's zone, so 10.0.0.1:8080."),
    ],
)
def test_where_nobody_is_near_it_is_said_who_is_asked_instead(
    distribution: str, nodes: tuple[str, ...], said: str
) -> None:
    zones = {"n1": "eu-1a", "n2": "eu-1a", "n3": "eu-1b"}
    there = [
        endpoint(f"10.0.0.{number}", hints={"forNodes": [{"name": one}], "forZones": [{"name": zones[one]}]})
        for number, one in enumerate(nodes, start=1)
    ]
    of = translated(service(trafficDistribution=distribution), slice_of(endpoints=there))
    assert said in told(of, "orders", Caller("shop", "web-1", node="n1", zone="eu-1a"))


@pytest.mark.parametrize(
    ("zone", "second", "preference"),
    [
        ("", {"hints": {"forZones": [{"name": "eu-1b"}]}}, "the caller's zone is not known, so wherever they are"),
        ("eu-1a", {}, "not each has a hint for whom it is, so whatever the caller's zone"),
    ],
)
def test_where_hints_do_not_count_it_is_said_why(zone: str, second: dict[str, Any], preference: str) -> None:
    near = endpoint("10.0.0.1", hints={"forZones": [{"name": "eu-1a"}]})
    of = translated(
        service(trafficDistribution="PreferClose"), slice_of(endpoints=[near, endpoint("10.0.0.2", **second)])
    )
    by = Caller("shop", "web-1", node="n1", zone=zone)
    assert f"Endpoints: {preference}, 10.0.0.1:8080, 10.0.0.2:8080." in told(of, "orders", by)


def test_of_a_node_that_nobody_told_of_the_endpoints_are_those_that_its_pods_are_told() -> None:
    of = translated(service(internalTrafficPolicy="Local"), slice_of(endpoints=[endpoint("10.0.0.1", nodeName="n1")]))
    by = Caller("shop", "web-1", node="n1")
    assert "on the caller's node only, 10.0.0.1:8080." in told(of, "orders", by)
    found = of.get(Kind.ENDPOINTS, of.meant(Kind.ENDPOINTS, "shop/orders:80", by))
    assert found is not None
    assert b"10.0.0.1" in found.body


def test_what_goes_by_tls_passes_through_unless_its_port_is_named_so() -> None:
    vault = translated(service("vault", ports=[443]), slice_of("vault"))
    assert "passes through as TCP to where kube-proxy sends it" in (said := told(vault, "https://vault"))
    assert "nobody but its two ends can read" in said
    named = translated(service("vault", ports=[{"port": 443, "name": "https"}]), slice_of("vault"))
    assert "TCP: a connection goes to one of them" in told(named, "https://vault")


def test_a_service_of_tcp_without_endpoints_ends_connections() -> None:
    database = translated(service(ports=[{"port": 5432, "name": "postgres"}]))
    assert "none. The connection is closed." in told(database, "orders:5432")


def test_a_service_without_endpoints_answers_503() -> None:
    assert "none. The answer is 503" in told(translated(service()), "orders")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("/healthz", "every 5s, by GET /healthz."),
        ("grpc", "every 5s, by gRPC's health protocol"),
        ("tcp", "Beside a sidecar, which accepts all, that never fails."),
    ],
)
def test_a_health_check_is_said_with_what_it_cannot_see(check: str, words: str) -> None:
    assert words in told(translated(service(annotations={"health-check": check}), slice_of()), "orders")
    assert "Health:" not in told(translated(service(), slice_of()), "orders")


def test_a_cluster_that_is_refused_is_said_to_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "cluster", lambda name, *_: {"name": name, "connect_timeout": "-1s"})
    assert "its calls pass through. connect_timeout" in told(translated(service(), slice_of()), "orders")


def test_the_last_resort_is_said_to_be_one() -> None:
    of = translated(service(), slice_of(endpoints=[terminating("10.0.0.1")]))
    assert "all are terminating, and the last resort" in told(of, "orders")


@pytest.mark.parametrize(("method", "may"), [("GET", "may be repeated"), ("POST", "may not be repeated")])
def test_whether_a_request_may_be_repeated_depends_on_its_method(method: str, may: str) -> None:
    assert may in told(translated(service()), "orders", method=method)


@pytest.mark.parametrize(
    ("upstreams", "line"),
    [((), 'upstreams: "users.accounts"'), (("orders",), 'upstreams: "orders,users.accounts"')],
)
def test_what_is_not_in_view_comes_with_the_line_to_add(upstreams: tuple[str, ...], line: str) -> None:
    of = translated(service(), service("users", "accounts"))
    assert line in told(of, "users.accounts", Caller("shop", "web-1", upstreams=upstreams))


def test_the_line_to_add_puts_it_in_view() -> None:
    of = translated(service("users", "accounts"))
    assert not of.names(Kind.CLUSTER, WEB)
    assert of.names(Kind.CLUSTER, Caller("shop", "web-1", upstreams=("users.accounts",)))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (service(clusterIP="None"), "is headless"),
        (service(type="ExternalName"), "is an ExternalName"),
        (service(ports=[81]), "has no TCP port 80 (it has 81)"),
        (service(internalTrafficPolicy="Local"), "internalTrafficPolicy is Local"),
    ],
)
def test_why_it_passes_through_is_said(raw: dict[str, object], reason: str) -> None:
    assert reason in told(translated(raw), "orders")


def test_what_is_wrong_with_the_service_is_said_with_it() -> None:
    assert "! envoy-sidecar.io/timeout: 'soon'" in told(translated(service(annotations={"timeout": "soon"})), "orders")


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_every_annotation_that_decides_is_named_with_its_value(row: Annotation) -> None:
    said = told(translated(service(annotations={row.name: row.example})), "orders")
    assert f'Annotations of the Service say so, and defaults the rest:   {row.key}: "{row.example}"' in said


def test_what_is_as_by_default_is_said_of_no_annotation() -> None:
    assert "envoy-sidecar.io/" not in told(translated(service()), "orders")


# What an annotation needs beside it to do anything. That which says which port carries what is told with the port.
BESIDE = {"hash-on": {"load-balancing": "consistent-hash"}, "health-check-interval": {"health-check": "tcp"}}
DECIDING = [pytest.param(row, id=row.name) for row in TABLE if row.name != "protocol"]


def with_and_without(row: Annotation, **spec: Any) -> tuple[Translated, Translated]:
    """A Service with the annotation of that row, and one that differs in nothing else."""
    beside = BESIDE.get(row.name, {})
    return (
        translated(service(annotations=beside | {row.name: row.example}, **spec)),
        translated(service(annotations=beside, **spec)),
    )


@pytest.mark.parametrize("row", DECIDING)
def test_every_annotation_changes_what_is_said_of_the_policy(row: Annotation) -> None:
    def policy(of: Translated) -> list[str]:
        said = [told(of, "orders", method=method) for method in ("GET", "POST")]
        return [one.partition("Annotations of the Service")[0].strip() for one in said]

    with_it, without = with_and_without(row)
    assert policy(with_it) != policy(without)


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({}, "as long as retries are below 20 % of the requests in flight (or 3 at once)."),
        ({"retry-interval": "1s"}, "as long as retries are below 20 % of all requests of the last 1s (or 3 at once)."),
        ({"retry-minimum": "0"}, "as long as retries are below 20 % of the requests in flight."),
        ({"retry-budget": "0"}, "to another endpoint, with at most 3 retries at once."),
        ({"retry-timeout": "250ms"}, "One attempt may take 250ms."),
        ({"connect-timeout": "500ms"}, "one that does not come about within 500ms has failed"),
        ({"idle-timeout": "30s"}, "an unused one is closed after 30s"),
        ({"tcp-keepalive": "30s"}, "after 30s of silence TCP asks whether the endpoint is there"),
        ({"warm-up": "30s"}, "least-request; a new endpoint gets less than its share for 30s."),
        ({"eject-after": "0"}, "An endpoint that fails is not left alone."),
        ({"eject-percent": "0"}, "An endpoint that fails is not left alone."),
        ({"retry-methods": "all"}, "refused-stream, unavailable, cancelled, up to 2 times"),
    ],
)
def test_the_policy_is_said_as_it_holds(annotations: dict[str, str], words: str) -> None:
    assert words in told(translated(service(annotations=annotations)), "orders")


@pytest.mark.parametrize("annotations", [{"retries": "0"}, {"retry-budget": "0", "retry-minimum": "0"}])
def test_what_is_never_sent_again_is_said_so(annotations: dict[str, str]) -> None:
    said = told(translated(service(annotations=annotations)), "orders")
    assert "It is never sent again" in said
    assert "may be repeated" not in said


def test_connect_is_said_never_to_be_sent_again() -> None:
    assert "It is never sent again." in told(translated(service()), "orders", method="CONNECT")


@pytest.mark.parametrize("after", ["1", "2", "5"])
def test_how_often_an_endpoint_may_fail_is_said_as_its_cluster_has_it(after: str) -> None:
    of = translated(service(annotations={"eject-after": after}))
    ejection = (of.source(Kind.CLUSTER, "shop/orders:80") or {})["outlier_detection"]
    assert (
        f"answers {ejection['consecutive_gateway_failure']} times in a row 502, 503 or 504, or refuses or breaks off "
        f"{ejection['consecutive_local_origin_failure']} connections in a row,"
    ) in told(of, "orders")


MIXED: list[Any] = [80, {"port": 5432, "name": "tcp"}]


@pytest.mark.parametrize("row", DECIDING)
def test_every_annotation_is_said_to_do_nothing_over_tcp_or_changes_the_cluster(row: Annotation) -> None:
    with_it, without = with_and_without(row, ports=MIXED)
    changed = with_it.source(Kind.CLUSTER, "shop/orders:5432") != without.source(Kind.CLUSTER, "shop/orders:5432")
    in_vain = f'{row.key}: "{row.example}"  # does nothing at port 5432, TCP: '
    assert changed or in_vain in told(with_it, "orders:5432")


@pytest.mark.parametrize("row", DECIDING)
def test_nothing_of_a_service_that_has_a_port_of_tcp_is_said_to_be_in_vain_at_another(row: Annotation) -> None:
    with_it, _ = with_and_without(row, ports=MIXED)
    assert "does nothing" not in told(with_it, "orders:80")


def test_no_limit_of_requests_is_said_of_tcp() -> None:
    assert "Limits of this caller: 1024 connections, 1024 waiting." in told(
        translated(service(ports=MIXED)), "orders:5432"
    )


@pytest.mark.parametrize(
    ("annotations", "balancing"),
    [
        ({"load-balancing": "latency"}, "round-robin, for TCP shows no answer that could be timed."),
        ({"load-balancing": "consistent-hash", "hash-on": "header:x-user"}, "consistent-hash on source-ip."),
    ],
)
def test_the_balancing_of_tcp_is_said_as_it_holds(annotations: dict[str, str], balancing: str) -> None:
    of = translated(service(ports=MIXED, annotations=annotations))
    assert f"Balancing: {balancing}" in told(of, "orders:5432")


def test_without_a_cluster_ip_requests_are_told_and_tcp_passes_through() -> None:
    of = translated(service(ports=MIXED, clusterIP=None), slice_of())
    assert "Cluster shop/orders:80." in told(of, "orders")
    assert "has no usable ClusterIP, which alone tells TCP from other TCP: it passes through." in told(
        of, "orders:5432"
    )
    assert "! spec.clusterIP is missing" in told(of, "orders")


@pytest.mark.parametrize("url", ["", "http://", "//:80", "orders:eighty", "orders:99999"])
def test_what_is_no_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="use a host and port"):
        told(translated(), url)


def test_what_comes_on_demand_is_said_to_be_waited_for() -> None:
    choices = Choices(on_demand=True)
    of = translated(service(), slice_of(), choices=choices)
    assert "On demand: the first request waits" in told(of, "orders", choices=choices)
    assert "On demand" not in told(of, "orders", Caller("shop", "web-1", upstreams=("orders",)), choices=choices)


# What the sidecar does not see


def pod(**annotations: str) -> build.Document:
    """An injected one; _ in the name of an annotation is a hyphen."""
    return build.injected(build.pod({name.replace("_", "-"): value for name, value in annotations.items()}))


def test_a_request_that_no_sidecar_sees_goes_where_it_is_dialled_whatever_its_service_says() -> None:
    said = told(translated(service(), slice_of()), "orders", pod=pod(exclude_outbound_ports="80"))
    assert "No sidecar sees it: port 80 is excluded, by the pod's annotation" in said
    assert said.endswith("It goes to where the application dials, without retries, limits or ejection.")


def test_a_service_is_excluded_by_its_cluster_ip() -> None:
    said = told(translated(service(), slice_of()), "orders", pod=pod(exclude_outbound_cidrs="10.96.0.0/16"))
    assert "No sidecar sees it: 10.96.0.10 is in 10.96.0.0/16" in said


def test_a_service_that_is_excluded_in_one_family_is_told_in_the_other() -> None:
    both = service(clusterIPs=["10.96.0.10", "fd96::a"], ipFamilies=["IPv4", "IPv6"])
    said = told(translated(both, slice_of()), "orders", pod=pod(exclude_outbound_cidrs="fd96::/64"))
    assert "Cluster shop/orders:80." in said
    assert "Not at fd96::a, where no sidecar sees it: fd96::a is in fd96::/64" in said


@pytest.mark.parametrize("host", ["example.com", "stateful"])
def test_a_host_whose_address_only_dns_knows_is_told_with_the_networks_that_are_excluded(host: str) -> None:
    of = translated(service("stateful", clusterIP="None"))
    assert "No sidecar sees it if its address is in 10.0.0.0/8" in told(
        of, host, pod=pod(exclude_outbound_cidrs="10.0.0.0/8")
    )


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1:80", "[::1]:80"])
def test_what_an_application_sends_to_itself_no_sidecar_sees(host: str) -> None:
    assert "No sidecar sees it: loopback is not redirected." in told(translated(), host, pod=pod())


def test_an_opaque_port_passes_through_unless_its_service_says_that_it_carries_tcp() -> None:
    opaque = pod(opaque_outbound_ports="80")
    said = told(translated(service(), slice_of()), "orders", pod=opaque)
    assert "It passes through as TCP to where kube-proxy sends it" in said
    assert "port 80 is opaque, by the pod's annotation envoy-sidecar.io/opaque-outbound-ports: 80." in said
    carries_tcp = translated(service(annotations={"protocol": "tcp"}), slice_of())
    assert "TCP: a connection goes to one of them" in told(carries_tcp, "orders", pod=opaque)


def test_without_the_spec_of_its_pod_a_request_is_taken_for_seen() -> None:
    said = told(translated(service(), slice_of()), "orders", pod={"metadata": {"name": "web-1"}})
    assert "Cluster shop/orders:80." in said


# What a pod calls


def calls(of: Translated, by: Caller = WEB, told: Sequence[Key] = (), **passed: int) -> str:
    """`passed` is by the last number of an address: _7 is 10.96.0.7:80."""
    called = Called({f"10.96.0.{name[1:]}:80": count for name, count in passed.items()}, dict.fromkeys(told, 2))
    return " ".join(explain.calls(of, Choices(), by, called))


USERS = service("users", "accounts", clusterIP="10.96.0.7")


def test_a_service_that_passed_through_unlisted_is_named_with_the_reason() -> None:
    said = calls(translated(USERS), _7=3)
    assert "accounts/users at 10.96.0.7:80 passed through 3 times: it is not in the default scope, namespace." in said


def test_the_line_to_add_holds_all_that_the_pod_calls_and_declares() -> None:
    by = Caller("shop", "web-1", upstreams=("sessions",))
    said = calls(translated(service(), USERS), by, told=[Key("shop", "orders")], _7=1)
    assert said.endswith('envoy-sidecar.io/upstreams: "orders,sessions,users.accounts"')


def test_a_service_that_is_told_and_was_not_named_passed_through_for_another_reason() -> None:
    assert "but the host that was named is none of its names" in calls(translated(service()), _10=1)


def test_an_address_that_is_no_services_is_none_of_a_pods_upstreams() -> None:
    assert calls(translated(USERS), _99=1) == "shop/web-1 has called no Service of the cluster lately."


# The commands


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    place = tmp_path / "cluster.yaml"
    bad = service("bad", annotations={"retries": "many"}, clusterIP="10.96.0.11")
    place.write_text(yaml.safe_dump_all([service(), slice_of(), bad]))
    return place


def test_render_prints_what_the_proxy_gets_and_warns_of_what_is_wrong(
    manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "-f", str(manifests), "--node", "shop/web-1"]) == 0
    printed = capsys.readouterr()
    resources = json.loads(printed.out)
    assert [one["name"] for one in resources["clusters"]] == ["shop/bad:80", "shop/orders:80"]
    assert [one["name"] for one in resources["listeners"]] == ["out_80"]
    assert "warning: Service shop/bad: envoy-sidecar.io/retries: 'many'" in printed.err
    assert "Pod shop/web-1: not in" in printed.err


def test_a_pod_of_the_file_is_explained_by_its_own_rules(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = [pod(exclude_outbound_ports="80"), build.pod(labels={"envoy-sidecar.io/inject": "disabled"})]
    pods[1]["metadata"]["name"] = "web-2"
    manifests.with_name("pods.yaml").write_text(yaml.safe_dump_all(pods))
    said = []
    for name in ("web-1", "web-2"):
        assert main(["explain", "-f", str(manifests.parent), "--node", f"shop/{name}", "orders"]) == 0
        said.append(capsys.readouterr().out)
    assert "envoy-sidecar.io/exclude-outbound-ports: 80." in said[0]
    assert "envoy-sidecar.io/inject: disabled" in said[1]


def test_render_warns_of_a_pod_whose_sidecar_sees_nothing(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifests.with_name("pod.yaml").write_text(yaml.safe_dump(build.pod(hostNetwork=True)))
    assert main(["render", "-f", str(manifests.parent), "--node", "shop/web-1"]) == 0
    assert "warning: no request is seen by Envoy: the pod has no sidecar" in capsys.readouterr().err


def test_the_settings_upstreams_are_those_of_a_pod_that_declares_none(
    manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = manifests.with_name("settings.yaml")
    settings.write_text("sidecar: {upstreams: [orders.shop], concurrency: 2}\n")
    main(["render", "-f", str(manifests), "--node", "accounts/a-1", "--settings", str(settings)])
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["clusters"]] == ["shop/orders:80"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("controlplane: {scope: all}", "controlplane.scope: 'all'"),
        ("sidecar: {upstreams: [Orders]}", "sidecar.upstreams.0: 'Orders'"),
        ("controlplane: {sope: list}", "controlplane.sope: no such setting"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    tmp_path: Path, text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    arguments = ["render", "-f", "x", "--node", "shop/web-1", "--settings", str(tmp_path / "settings.yaml")]
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_what_a_pod_calls_is_read_from_its_page(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = manifests.with_name("page")
    page.write_text(
        'envoy_cluster_endpoint_rq_total{envoy_cluster_name="passthrough",envoy_endpoint_address="10.96.0.10:80"} 1\n'
    )
    assert main(["explain", "-f", str(manifests), "--node", "accounts/a-1", "--calls", str(page)]) == 0
    assert 'envoy-sidecar.io/upstreams: "orders.shop"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "problem"), [(None, "No such file"), ("a 1 b c {", "page: is not what a sidecar has")]
)
def test_a_page_that_cannot_be_read_is_refused(
    manifests: Path, text: str | None, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = manifests.with_name("page")
    if text is not None:
        page.write_text(text)
    assert main(["explain", "-f", str(manifests), "--node", "accounts/a-1", "--calls", str(page)]) == 2
    assert problem in capsys.readouterr().err


def test_an_answer_from_the_wrong_file_says_what_is_missing_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pods.yaml").write_text("kind: Deployment\n")
    assert main(["explain", "-f", str(tmp_path / "pods.yaml"), "--node", "shop/web-1", "orders"]) == 0
    said = capsys.readouterr().err
    assert "warning: no Service is in " in said
    assert "warning: Pod shop/web-1: not in " in said


def test_a_file_without_endpoints_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(service()))
    assert main(["explain", "-f", str(tmp_path / "service.yaml"), "--node", "shop/web-1", "orders"]) == 0
    assert "warning: no EndpointSlice with usable endpoints is in " in capsys.readouterr().err


def test_why_a_service_has_fewer_endpoints_than_its_slices_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = service(), slice_of(endpoints=["127.0.0.1"])
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump_all(objects))
    assert main(["explain", "-f", str(tmp_path / "shop.yaml"), "--node", "shop/web-1", "orders"]) == 0
    assert "warning: EndpointSlice shop/orders-a: " in capsys.readouterr().err


def test_a_method_may_be_written_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    place = str(ROOT / "docs/examples/traffic.yaml")
    assert main(["explain", "-f", place, "--node", "shop/web-1", "--method", "get", "orders"]) == 0
    assert "GET may be repeated" in capsys.readouterr().out


def test_what_is_piped_in_is_read() -> None:
    whole = f"{sys.executable} -m controlplane explain -f - --node shop/web-1 orders < docs/examples/traffic.yaml"
    done = subprocess.run(whole, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "Cluster shop/orders:80" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--metrics-port", "99999", "'99999' is no port"),
        ("--metrics-port", "-1", "'-1' is no port"),
        ("--xds-address", "127.0.0.1:99999", "'99999' is no port"),
        ("--xds-address", "garbage", "write an IP and a port, such as 127.0.0.1:15012"),
        ("--xds-address", "localhost:15012", "write an IP and a port, such as 127.0.0.1:15012"),
    ],
)
def test_an_address_or_port_that_cannot_be_is_told(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--from", "docs/examples", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: " in (text := capsys.readouterr().err)
    assert said in text


@pytest.mark.parametrize("command", ["render", "explain"])
@pytest.mark.parametrize(("to", "said"), [("| true", ""), ("> /dev/full", "No space left")])
def test_a_reader_that_has_seen_enough_or_has_no_room_is_no_crash(command: str, to: str, said: str) -> None:
    host = " orders" if command == "explain" else ""
    whole = f"{sys.executable} -m controlplane {command} -f docs/examples/traffic.yaml --node shop/web-1{host} {to}"
    done = subprocess.run(whole, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert said in done.stderr


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "-f", "/nowhere.yaml", "--node", "shop/web-1", "orders"]) == 2
    assert "/nowhere.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("pod", ["web-1", "shop/", "Shop/web", "shop/web/1"])
def test_a_pod_is_named_with_its_namespace(pod: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "-f", "x", "--node", pod, "orders"])
    assert "argument --node: " in capsys.readouterr().err
