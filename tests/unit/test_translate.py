"""What Envoy is told of the cluster: which Services, by which names, and how a request is treated."""

import json
from typing import Any

import pytest
from google.protobuf import any_pb2

from controlplane.clusters import PASSTHROUGH
from controlplane.extensions import Json
from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED
from controlplane.xds import clusters, messages, translate
from controlplane.xds.making import finished
from controlplane.xds.routes import BODY_BYTES
from controlplane.xds.scope import Scope, View
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices, Recipe
from controlplane.xds.translated import Translated
from tests.cluster import WEB, endpoint, node, service, slice_of, terminating, translated
from tests.static_form import routes_of

ZONED: Json = {"trafficDistribution": "PreferSameZone"}
LOCAL: Json = {"internalTrafficPolicy": "Local"}
ZONES = [node("n1", "eu-1a"), node("n2", "eu-1b")]
IN_A = Caller("shop", "web-1", node="n1", zone="eu-1a")


def source(of: Translated, kind: Kind, name: str, by: Caller = WEB) -> Json:
    """The resource as JSON, by the name that the caller's proxy says; it has passed Envoy's rules."""
    called = of.meant(kind, name, by)
    assert of.get(kind, called) is not None, (name, of.rejected)
    found = of.source(kind, called)
    assert found is not None
    return found


def cluster(**annotations: str) -> Json:
    """The cluster of a Service with these annotations."""
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    return source(translated(service(annotations=named)), Kind.CLUSTER, "shop/orders:80")


def virtual_hosts(of: Translated, by: Caller = WEB, port: int = 80) -> dict[str, Json]:
    routes = routes_of(source(of, Kind.LISTENER, f"out_{port}", by))
    assert routes is not None
    return {host["name"]: host for host in source(of, Kind.ROUTES, routes, by)["virtual_hosts"]}


def route(method: str, **annotations: str) -> Json:
    """What a request of that method meets at a Service with these annotations."""
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    for one in virtual_hosts(translated(service(annotations=named)))["shop/orders:80"]["routes"]:
        headers = one["match"].get("headers", [])
        if "prefix" in one["match"] and all(
            method in h["string_match"]["safe_regex"]["regex"].split("|") for h in headers
        ):
            found: Json = one["route"]
            return found
    raise AssertionError(f"no route for {method}")


def ranks(of: Translated, name: str, by: Caller = WEB) -> dict[int, list[str]]:
    """The addresses of a cluster's endpoints, by priority."""
    found: dict[int, list[str]] = {}
    for group in source(of, Kind.ENDPOINTS, name, by)["endpoints"]:
        for one in group["lb_endpoints"]:
            address = one["endpoint"]["address"]["socket_address"]["address"]
            found.setdefault(group["priority"], []).append(address)
    return found


# Hosts


@pytest.mark.parametrize(
    "host",
    [
        "orders",
        "orders.shop",
        "orders.shop.svc",
        "orders.shop.svc.cluster.local",
        "orders.shop.svc.cluster.local.",
        "10.96.0.10",
    ],
)
def test_a_service_is_known_by_every_name_that_dns_and_kube_proxy_know(host: str) -> None:
    assert host in virtual_hosts(translated(service()))["shop/orders:80"]["domains"]


def test_its_short_name_is_known_in_its_own_namespace_only() -> None:
    everything = Choices(scope=Scope(default="cluster"))
    foreign = Caller("accounts", "web-1")
    hosts = virtual_hosts(translated(service(), choices=everything), foreign)["shop/orders:80"]["domains"]
    assert "orders.shop" in hosts
    assert "orders" not in hosts


def test_ports_in_the_host_header_do_not_matter() -> None:
    assert source(translated(service()), Kind.ROUTES, "http_80")["ignore_port_in_host_matching"]


def test_an_ipv6_address_is_a_host_in_brackets() -> None:
    raw = service(clusterIP="fd00::10", clusterIPs=["fd00::10", "10.96.0.10"])
    assert {"[fd00::10]", "10.96.0.10"} <= set(virtual_hosts(translated(raw))["shop/orders:80"]["domains"])


def test_two_services_with_one_address_do_not_spoil_the_routes_of_all() -> None:
    hosts = virtual_hosts(translated(service("a"), service("b")))
    assert "10.96.0.10" in hosts["shop/a:80"]["domains"]
    assert "10.96.0.10" not in hosts["shop/b:80"]["domains"]


def test_an_unknown_host_passes_through() -> None:
    passed = virtual_hosts(translated(service()))["any"]
    assert passed["domains"] == ["*"]
    assert {one["route"]["cluster"] for one in passed["routes"]} == {PASSTHROUGH}


def test_headers_between_sidecars_end_at_every_egress() -> None:
    for host in virtual_hosts(translated(service())).values():
        assert host["response_headers_to_remove"] == [UNPROCESSED]
        assert host["request_headers_to_remove"] == [ASKS_LOAD]


def test_only_where_latency_decides_a_replica_is_asked_for_its_load_and_only_there_the_report_ends() -> None:
    hosts = virtual_hosts(translated(service(annotations={"load-balancing": "latency"}), service("users")))
    assert {name for name, host in hosts.items() if "request_headers_to_add" in host} == {"shop/orders:80"}
    (added,) = hosts["shop/orders:80"]["request_headers_to_add"]
    assert added["header"]["key"] == ASKS_LOAD
    assert hosts["shop/orders:80"]["response_headers_to_remove"] == [UNPROCESSED, LOAD_REPORT]


def test_another_cluster_domain_is_the_operators_choice() -> None:
    hosts = virtual_hosts(translated(service(), choices=Choices(domain="mesh.example")))
    assert "orders.shop.svc.mesh.example" in hosts["shop/orders:80"]["domains"]


# Retries and timeouts


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_an_idempotent_request_is_sent_again_twice(method: str) -> None:
    policy = route(method)["retry_policy"]
    assert policy["num_retries"] == 2
    assert policy["retry_on"].split(",") == ["gateway-error", "reset", "connect-failure", "refused-stream"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "get"])
def test_any_other_is_sent_again_only_where_nobody_began_it(method: str) -> None:
    policy = route(method)["retry_policy"]
    allowed = {"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}
    assert set(policy["retry_on"].split(",")) == allowed
    assert policy["retriable_headers"] == [{"name": UNPROCESSED, "string_match": {"exact": "true"}}]


@pytest.mark.parametrize(
    ("annotations", "compared"),
    [
        ({}, True),
        ({"retries": "0"}, False),
        ({"retry_methods": "all"}, False),
        ({"retry_budget": "0", "retry_minimum": "0"}, False),
    ],
)
def test_whom_the_word_is_of_that_nobody_began_is_looked_at_only_where_it_decides(
    annotations: dict[str, str], compared: bool
) -> None:
    (options,) = cluster(**annotations)["typed_extension_protocol_options"].values()
    assert ("http_filters" in options) == compared


@pytest.mark.parametrize("retry_on", ["5xx", "gateway-error,reset"])
def test_an_author_may_say_that_every_request_is_idempotent(retry_on: str) -> None:
    assert route("POST", retry_methods="all", retry_on=retry_on) == route("GET", retry_on=retry_on)


def test_where_posts_may_be_repeated_grpcs_own_failures_count_too_unless_the_author_chose_conditions() -> None:
    usual = route("GET")["retry_policy"]["retry_on"]
    assert route("POST", retry_methods="all")["retry_policy"]["retry_on"] == f"{usual},unavailable,cancelled"
    for chosen in ("5xx", usual):
        assert route("POST", retry_methods="all", retry_on=chosen)["retry_policy"]["retry_on"] == chosen


@pytest.mark.parametrize("annotations", [{"retries": "0"}, {"retry_budget": "0", "retry_minimum": "0"}])
def test_where_nothing_is_ever_sent_again_nothing_is_kept_for_it(annotations: dict[str, str]) -> None:
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    host = virtual_hosts(translated(service(annotations=named)))["shop/orders:80"]
    assert "request_body_buffer_limit" not in host
    assert "retry_policy" not in route("GET", **annotations)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_no_timeout_unless_the_author_gives_one(method: str) -> None:
    assert route(method)["timeout"] == "0s"
    assert route(method, timeout="1500ms")["timeout"] == "1.5s"


def test_an_attempt_has_its_own_timeout() -> None:
    assert route("GET", retry_timeout="250ms")["retry_policy"]["per_try_timeout"] == "0.25s"


def test_connect_is_never_sent_again() -> None:
    first = virtual_hosts(translated(service()))["shop/orders:80"]["routes"][0]
    assert "connect_matcher" in first["match"]
    assert "retry_policy" not in first["route"]


# Clusters


def test_a_callers_retries_have_a_budget() -> None:
    (limits,) = cluster(retry_budget="10", retry_minimum="1", retry_interval="1s")["circuit_breakers"]["thresholds"]
    budget = {"budget_percent": {"value": 10}, "budget_interval": "1s", "min_retry_concurrency": 1}
    assert limits["retry_budget"] == budget


@pytest.mark.parametrize(
    ("choice", "policy"),
    [
        ({}, "least_request"),
        ({"load_balancing": "round-robin"}, "round_robin"),
        ({"load_balancing": "latency"}, "client_side_weighted_round_robin"),
        ({"load_balancing": "consistent-hash", "hash_on": "cookie:id"}, "ring_hash"),
    ],
)
def test_how_an_endpoint_is_chosen(choice: dict[str, str], policy: str) -> None:
    (chosen,) = cluster(**choice)["load_balancing_policy"]["policies"]
    assert chosen["typed_extension_config"]["name"] == f"envoy.load_balancing_policies.{policy}"


@pytest.mark.parametrize(
    ("hash_on", "policy"),
    [
        ("header:X-User", {"header": {"header_name": "x-user"}}),
        ("cookie:id", {"cookie": {"name": "id", "ttl": "0s"}}),
        ("source-ip", {"connection_properties": {"source_ip": True}}),
    ],
)
def test_what_consistent_hash_looks_at(hash_on: str, policy: Json) -> None:
    assert route("GET", load_balancing="consistent-hash", hash_on=hash_on)["hash_policy"] == [policy]


@pytest.mark.parametrize("annotations", [{}, {"hash-on": "header:x-user"}], ids=["alone", "without-consistent-hash"])
def test_session_affinity_keeps_a_pod_at_its_endpoint(annotations: dict[str, str]) -> None:
    of = translated(service(sessionAffinity="ClientIP", annotations=annotations))
    (first, *_) = virtual_hosts(of)["shop/orders:80"]["routes"]
    assert first["route"]["hash_policy"] == [{"connection_properties": {"source_ip": True}}]


DATABASE: list[Json] = [{"port": 5432, "name": "tcp"}]


@pytest.mark.parametrize(
    "asks",
    [
        {},
        {"sessionAffinity": "ClientIP"},
        {"annotations": {"load-balancing": "consistent-hash", "hash-on": "source-ip"}},
        {"annotations": {"load-balancing": "consistent-hash", "hash-on": "header:x-user"}},
    ],
)
def test_a_connection_of_tcp_is_hashed_on_its_caller_for_any_balancer_that_wants_it(asks: Json) -> None:
    """So that another balancer does not change the chain, which would end the connections."""
    of = translated(service(ports=DATABASE, **asks))
    chain, _ = source(of, Kind.LISTENER, "out_5432")["filter_chains"]
    assert chain["filters"][0]["typed_config"]["hash_policy"] == [{"source_ip": {}}]


def test_of_a_body_as_much_is_kept_as_may_be_sent_again() -> None:
    hosts = virtual_hosts(translated(service(), service("never", annotations={"retries": "0"}, clusterIP="10.96.0.11")))
    assert {name: host.get("request_body_buffer_limit") for name, host in hosts.items()} == {
        "shop/orders:80": BODY_BYTES,
        "shop/never:80": None,
        "any": None,
    }


def test_an_endpoint_is_left_alone_after_five_gateway_failures_and_for_no_500() -> None:
    ejection = cluster()["outlier_detection"]
    assert ejection["consecutive_gateway_failure"] == 5
    assert ejection["enforcing_consecutive_5xx"] == 0


def test_ejection_can_be_switched_off() -> None:
    ejection = cluster(eject_after="0")["outlier_detection"]
    kinds = ("enforcing_consecutive_gateway_failure", "enforcing_consecutive_local_origin_failure")
    assert [ejection[kind] for kind in kinds] == [0, 0]


def test_nobody_is_asked_for_his_health_unless_the_author_says_so() -> None:
    assert "health_checks" not in cluster()
    (check,) = cluster(health_check="/healthz")["health_checks"]
    assert check["http_health_check"] == {"path": "/healthz", "host": "orders.shop.svc.cluster.local"}


@pytest.mark.parametrize(
    ("check", "asked"),
    [("/healthz", {80, 8080}), ("grpc", {80, 90}), ("tcp", {80, 8080, 90, 5432, 443})],
)
def test_nobody_is_asked_for_his_health_in_a_language_that_he_does_not_speak(check: str, asked: set[int]) -> None:
    ports: list[Json] = [
        {"port": 80},
        {"port": 8080, "name": "http"},
        {"port": 90, "name": "grpc"},
        {"port": 5432, "name": "postgres"},
        {"port": 443, "name": "https"},
    ]
    of = translated(service(ports=ports, annotations={"health-check": check}))
    clusters = {one["port"]: source(of, Kind.CLUSTER, f"shop/orders:{one['port']}") for one in ports}
    assert {port for port, found in clusters.items() if "health_checks" in found} == asked


def test_the_circuit_breakers_state_is_a_metric() -> None:
    assert cluster()["circuit_breakers"]["thresholds"][0]["track_remaining"]


# Who is told what


@pytest.mark.parametrize(
    ("scope", "clusters"),
    [
        (Scope(), ["shop/orders:80"]),
        (Scope(default="cluster"), ["accounts/users:80", "shop/orders:80"]),
        (Scope(default="list", services=("users.accounts", "gone")), ["accounts/users:80"]),
        (Scope(default="list"), []),
    ],
)
def test_a_pod_that_declares_nothing_is_told_the_operators_scope(scope: Scope, clusters: list[str]) -> None:
    of = translated(service(), service("users", "accounts"), choices=Choices(scope=scope))
    assert list(of.names(Kind.CLUSTER, WEB)) == clusters


def test_a_pod_that_declares_its_upstreams_is_told_these() -> None:
    of = translated(service(), service("users", "accounts"), service("users"))
    declares = Caller("shop", "web-1", upstreams=("users", "users.accounts", "gone"))
    assert list(of.names(Kind.CLUSTER, declares)) == ["accounts/users:80", "shop/users:80"]


def test_two_namespaces_have_different_routes_under_the_one_name_that_their_envoys_ask_for() -> None:
    """So there is room for a route that holds for the callers of one namespace."""
    of = translated(service(), choices=Choices(scope=Scope(default="cluster")))
    namespaces = ("shop", "accounts")
    found = {one: source(of, Kind.ROUTES, "http_80", Caller(one, "web-1")) for one in namespaces}
    assert {one["name"] for one in found.values()} == {"http_80"}
    assert [one["virtual_hosts"][0]["name"] for one in found.values()] == ["shop/orders:80", "shop/orders:80"]
    assert found["shop"] != found["accounts"]
    assert [of.meant(Kind.ROUTES, "http_80", Caller(one, "web-1")) for one in namespaces] == [
        "http_80/shop",
        "http_80/accounts",
    ]


def test_each_scope_has_routes_of_its_own_and_pods_of_one_scope_share_them() -> None:
    of = translated(service(), service("users"))
    one, other = Caller("shop", "a", upstreams=("users",)), Caller("shop", "b", upstreams=("users",))
    assert of.variant(Kind.ROUTES, one) == of.variant(Kind.ROUTES, other) != of.variant(Kind.ROUTES, WEB)
    assert "shop/orders:80" not in virtual_hosts(of, one)


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName"}])
def test_whoever_chooses_a_replica_himself_is_passed_through(spec: Json) -> None:
    of = translated(service(**spec), slice_of())
    assert not of.names(Kind.CLUSTER, WEB)
    assert not of.names(Kind.LISTENER, WEB)
    assert of.get(Kind.CLUSTER, "shop/orders:80") is None


def test_there_is_a_listener_for_each_port_and_it_binds_none() -> None:
    of = translated(service(ports=[80, 81]), service("users"))
    names = of.names(Kind.LISTENER, WEB)
    assert list(names) == ["out_80", "out_81"]
    assert not any(source(of, Kind.LISTENER, name)["bind_to_port"] for name in names)


@pytest.mark.parametrize(("addresses", "families"), [(["10.96.0.10"], 1), (["10.96.0.10", "fd00::10"], 2)])
def test_a_listener_is_for_ipv6_only_where_services_have_it(addresses: list[str], families: int) -> None:
    of = translated(service(clusterIPs=addresses))
    names = of.names(Kind.LISTENER, WEB)
    assert list(names) == ["out_80", "out6_80"][:families]
    asked = [source(of, Kind.LISTENER, name)["address"]["socket_address"]["address"] for name in names]
    assert asked == ["0.0.0.0", "::"][:families]


def test_a_listener_waits_for_its_routes_and_meanwhile_traffic_passes() -> None:
    listener = json.dumps(source(translated(service()), Kind.LISTENER, "out_80"))
    assert '"initial_fetch_timeout": "0s"' in listener


def test_tcp_is_told_by_the_address_that_was_dialled() -> None:
    of = translated(service(ports=[{"port": 5432, "name": "tcp"}]))
    listener = source(of, Kind.LISTENER, "out_5432")
    chain, _ = listener["filter_chains"]
    assert chain["filter_chain_match"] == {"prefix_ranges": [{"address_prefix": "10.96.0.10", "prefix_len": 32}]}
    assert chain["filters"][0]["typed_config"]["cluster"] == "shop/orders:5432"


def test_no_host_is_a_service_of_tcp() -> None:
    assert list(virtual_hosts(translated(service(ports=DATABASE)), port=5432)) == ["any"]


@pytest.mark.parametrize("first", [80, {"port": 80, "name": "tcp"}], ids=["http", "tcp"])
def test_what_stays_of_a_port_passes_everything_through_by_the_chains_that_did_so_before(first: int | Json) -> None:
    of = translated(service(ports=[first]))
    was = source(of, Kind.LISTENER, "out_80")
    rest = translate.remains(Kind.LISTENER, "out_80", View("shop"), Choices())
    assert rest == was | {"filter_chains": was["filter_chains"][-1:]}
    left = translate.remains(Kind.ROUTES, "http_80", View("shop"), Choices())
    assert [host["name"] for host in left["virtual_hosts"]] == ["any"]


OTHERS = {
    "of a zone": service("other", clusterIP="10.96.0.11", **ZONED),
    "of a node": service("other", clusterIP="10.96.0.11", **LOCAL),
    "on the same port, of any protocol": service("other", ports=[5432], clusterIP="10.96.0.11"),
    "on the same port, of TCP": service("other", ports=[{"port": 5432, "name": "tcp"}], clusterIP="10.96.0.11"),
    "with both families": service(
        "other", ports=[80, 5432], clusterIP="10.96.0.11", clusterIPs=["10.96.0.11", "fd00::11"]
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_somebody_elses_service_changes_no_chain_of_mine_nor_more_of_a_listener_than_chains(other: Json) -> None:
    mine = [service(), service("database", ports=[{"port": 5432, "name": "tcp"}], clusterIP="10.96.0.12"), *ZONES]
    before, after = translated(*mine), translated(*mine, other)
    for name in before.names(Kind.LISTENER, IN_A):
        was, now = source(before, Kind.LISTENER, name, IN_A), source(after, Kind.LISTENER, name, IN_A)
        assert {key: value for key, value in was.items() if key != "filter_chains"} == {
            key: value for key, value in now.items() if key != "filter_chains"
        }
        assert all(chain in now["filter_chains"] for chain in was["filter_chains"])


# Zones and nodes


def on_demand(*more: Json) -> Translated:
    database = service("database", ports=[{"port": 5432, "name": "tcp"}])
    return translated(service(), slice_of(), database, *more, choices=Choices(on_demand=True))


def test_on_demand_a_proxy_has_the_clusters_of_tcp_from_the_start_for_nothing_waits_for_them_there() -> None:
    assert list(on_demand().names(Kind.CLUSTER, WEB)) == ["shop/database:5432"]


def test_on_demand_a_request_waits_for_the_cluster_that_its_route_names() -> None:
    of = on_demand()
    manager = source(of, Kind.LISTENER, "out_80")["filter_chains"][-1]["filters"][0]
    assert manager["typed_config"]["http_filters"][0]["name"] == "envoy.filters.http.on_demand"
    assert of.get(Kind.CLUSTER, "shop/orders:80") is not None


def test_a_pod_that_declares_its_upstreams_waits_for_none() -> None:
    by = Caller("shop", "web-1", upstreams=("orders",))
    of = on_demand()
    assert list(of.names(Kind.CLUSTER, by)) == ["shop/orders:80"]
    assert "on_demand" not in str(source(of, Kind.LISTENER, "out_80", by))


def hinted(address: str, zone: str, *, ready: bool = True) -> Json:
    return endpoint(address, ready=ready, zone=zone, hints={"forZones": [{"name": zone}]})


def test_endpoints_of_the_callers_zone_come_first_and_the_others_stand_by() -> None:
    slices = slice_of(endpoints=[hinted("10.0.0.1", "eu-1a"), hinted("10.0.0.2", "eu-1b")])
    of = translated(service(**ZONED), slices, *ZONES)
    (name,) = of.names(Kind.CLUSTER, IN_A)
    assert ranks(of, name, IN_A) == {0: ["10.0.0.1"], 1: ["10.0.0.2"]}


@pytest.mark.parametrize("spec", [ZONED, LOCAL, {"trafficDistribution": "PreferSameNode"}], ids=str)
def test_where_a_caller_is_makes_a_difference_to_endpoints_alone(spec: Json) -> None:
    near, there = translated(service(ports=[80, *DATABASE], **spec), *ZONES), Caller("shop", "web-2", "", "n2", "eu-1b")
    named = [(kind, name) for kind in (Kind.CLUSTER, Kind.LISTENER) for name in near.names(kind, IN_A)]
    for kind, name in (*named, (Kind.ROUTES, "http_80")):
        assert source(near, kind, name, IN_A) == source(near, kind, name, there)


@pytest.mark.parametrize("spec", [ZONED, LOCAL, {"trafficDistribution": "PreferSameNode"}], ids=str)
def test_a_service_that_comes_to_ask_where_its_callers_are_ends_no_connection(spec: Json) -> None:
    """As another listener would."""
    plain, near = (translated(service(ports=[80, *DATABASE], **one), *ZONES) for one in ({}, spec))
    for name in plain.names(Kind.LISTENER, IN_A):
        assert source(near, Kind.LISTENER, name, IN_A) == source(plain, Kind.LISTENER, name, IN_A)


@pytest.mark.parametrize(
    ("spec", "annotations", "percent", "panic"),
    [
        ({}, {}, 50, 50),
        (ZONED, {}, 100, 1),
        ({"trafficDistribution": "PreferSameNode"}, {}, 100, 1),
        (LOCAL, {}, 50, 50),
        (ZONED, {"eject-percent": "30"}, 30, 50),
    ],
    ids=str,
)
def test_where_a_place_is_preferred_all_of_it_may_be_left_alone(
    spec: Json, annotations: dict[str, str], percent: int, panic: int
) -> None:
    found = source(translated(service(annotations=annotations, **spec)), Kind.CLUSTER, "shop/orders:80")
    assert found["outlier_detection"]["max_ejection_percent"] == percent
    assert found["common_lb_config"]["healthy_panic_threshold"]["value"] == panic


@pytest.mark.parametrize(
    ("spec", "leaves"), [({}, False), (ZONED, True), ({"trafficDistribution": "PreferSameNode"}, True)], ids=str
)
def test_what_is_sent_again_leaves_the_place_that_failed_where_one_is_preferred(spec: Json, leaves: bool) -> None:
    """What is near may be one endpoint, which would be picked for each attempt."""
    (host,) = (one for one in virtual_hosts(translated(service(**spec))).values() if one["name"] == "shop/orders:80")
    repeated = [one["route"]["retry_policy"] for one in host["routes"] if "retry_policy" in one["route"]]
    assert ["retry_priority" in one for one in repeated] == [leaves, leaves]


def test_hints_count_only_if_every_endpoint_has_one() -> None:
    slices = slice_of(endpoints=[hinted("10.0.0.1", "eu-1a"), "10.0.0.2"])
    of = translated(service(**ZONED), slices, *ZONES)
    assert ranks(of, "shop/orders:80", IN_A) == {0: ["10.0.0.2", "10.0.0.1"]}


def near(address: str, node: str, zone: str) -> Json:
    return endpoint(address, zone=zone, hints={"forNodes": [{"name": node}], "forZones": [{"name": zone}]})


def test_who_prefers_his_node_prefers_his_zone_to_others() -> None:
    there = [near("10.0.0.1", "n1", "eu-1a"), near("10.0.0.2", "n3", "eu-1a"), near("10.0.0.3", "n2", "eu-1b")]
    preferring = service(trafficDistribution="PreferSameNode")
    of = translated(preferring, slice_of(endpoints=there), *ZONES)
    assert ranks(of, "shop/orders:80", IN_A) == {0: ["10.0.0.1"], 1: ["10.0.0.2"], 2: ["10.0.0.3"]}
    of = translated(preferring, slice_of(endpoints=there[1:]), *ZONES)
    assert ranks(of, "shop/orders:80", IN_A) == {0: ["10.0.0.2"], 1: ["10.0.0.3"]}


def test_a_zone_without_endpoints_uses_the_others() -> None:
    slices = slice_of(endpoints=[hinted("10.0.0.2", "eu-1b")])
    assert ranks(translated(service(**ZONED), slices, *ZONES), "shop/orders:80", IN_A) == {0: ["10.0.0.2"]}


def test_a_caller_of_unknown_zone_is_told_the_same_as_without_zones() -> None:
    slices = slice_of(endpoints=[hinted("10.0.0.1", "eu-1a"), hinted("10.0.0.2", "eu-1b")])
    assert ranks(translated(service(**ZONED), slices, *ZONES), "shop/orders:80") == {0: ["10.0.0.1", "10.0.0.2"]}


def test_endpoints_of_a_local_service_are_those_of_the_callers_node() -> None:
    slices = slice_of(endpoints=[endpoint("10.0.0.1", nodeName="n1"), endpoint("10.0.0.2", nodeName="n2")])
    of = translated(service(**LOCAL), slices, *ZONES)
    assert ranks(of, "shop/orders:80", IN_A) == {0: ["10.0.0.1"]}


def test_where_the_node_is_unknown_kube_proxy_keeps_local_traffic_local() -> None:
    assert not translated(service(**LOCAL)).names(Kind.CLUSTER, WEB)


@pytest.mark.parametrize("name", ["orders:80@", "orders:80@zone=eu-1b", "z:80@zone=eu-1b", "l:80@node-only=n2"])
def test_no_proxy_asks_for_endpoints_as_those_of_another_place_have_them(name: str) -> None:
    of = translated(service(), service("z", **ZONED), service("l", **LOCAL), *ZONES)
    assert of.get(Kind.ENDPOINTS, of.meant(Kind.ENDPOINTS, f"shop/{name}", IN_A)) is None


@pytest.mark.parametrize("name", ["z:80", "z:80@node=n1", "l:80", "l:80@node-only=", "l:80@zone=eu-1a"])
def test_endpoints_are_asked_for_by_the_place_that_matters_only(name: str) -> None:
    of = translated(service("z", **ZONED), service("l", **LOCAL), *ZONES)
    assert of.get(Kind.ENDPOINTS, f"shop/{name}") is None


def test_endpoints_are_one_resource_for_all_where_no_place_makes_a_difference() -> None:
    of = translated(service(), service("z", **ZONED), *ZONES)
    assert of.meant(Kind.ENDPOINTS, "shop/orders:80", IN_A) == of.meant(Kind.ENDPOINTS, "shop/orders:80", WEB)


# Endpoints that go


def test_a_terminating_endpoint_gets_nothing_while_another_is_ready() -> None:
    slices = slice_of(endpoints=["10.0.0.1", terminating("10.0.0.2")])
    assert ranks(translated(service(), slices), "shop/orders:80") == {0: ["10.0.0.1"]}


def test_terminating_endpoints_are_the_last_resort() -> None:
    slices = slice_of(endpoints=[terminating("10.0.0.1"), terminating("10.0.0.2", serving=False)])
    assert ranks(translated(service(), slices), "shop/orders:80") == {0: ["10.0.0.1"]}


def test_a_service_without_endpoints_is_told_as_such() -> None:
    assert ranks(translated(service()), "shop/orders:80") == {}


# Names that are asked for


NAMES_OF_NOTHING = [
    "*",
    "shop/orders",
    "shop/orders:81",
    "shop/orders:99999999999",
    "a/b/c:80",
    "shop/orders:80@",
    "out_80",
    "out_80/accounts",
    "out_81/shop",
    "out6_80/shop",
    "out_080/shop",
    "http_80",
    "http_80/shop+0000000000",
    "http_x/shop",
    "http_80/",
    "out_80/shop@",
]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in Kind for name in NAMES_OF_NOTHING],
)
def test_there_is_nothing_under_any_other_name(kind: Kind, name: str) -> None:
    of = translated(service())
    assert of.variant(Kind.LISTENER, WEB) == "/shop"
    assert of.get(kind, name) is None


def test_what_envoy_would_refuse_is_never_handed_out_and_the_last_good_one_stays() -> None:
    of = translated(service())
    good = of.get(Kind.CLUSTER, "shop/orders:80")
    broken: Any = {**(of.source(Kind.CLUSTER, "shop/orders:80") or {}), "connect_timeout": "-1s"}
    assert finished(of._make(Kind.CLUSTER, "shop/orders:80", Recipe((), lambda: broken), good)) is good
    assert "connect_timeout" in of.rejected[Kind.CLUSTER, "shop/orders:80"]


def test_without_a_good_one_requests_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"name": "shop/orders:80", "connect_timeout": "-1s"}
    monkeypatch.setattr(clusters, "cluster", lambda *_: broken)
    of = translated(service(), slice_of())
    told = of.get(Kind.CLUSTER, "shop/orders:80")
    assert told is not None
    assert told == of.instead(Kind.CLUSTER, "shop/orders:80")
    found: Any = messages.MESSAGES[Kind.CLUSTER].FromString(any_pb2.Any.FromString(told.body).value)
    assert found.type == found.ORIGINAL_DST
    assert list(of.rejected) == [(Kind.CLUSTER, "shop/orders:80")]


def test_a_bug_in_one_resource_ends_nothing_else() -> None:
    of = translated(service())

    def bug() -> Json:
        raise KeyError("never thought of")

    instead = finished(of._make(Kind.CLUSTER, "shop/orders:80", Recipe((), bug), None))
    assert instead == of.instead(Kind.CLUSTER, "shop/orders:80")
    assert "never thought of" in of.rejected[Kind.CLUSTER, "shop/orders:80"]
