"""What somebody with rights in one namespace may write: it costs little, and changes nothing for others."""

import time
import tracemalloc
from pathlib import Path

from controlplane.extensions import Json
from controlplane.xds import explain, messages, reading
from controlplane.xds.annotations import TABLE
from controlplane.xds.mesh import MOST_PLACES, Service
from controlplane.xds.reading import MAX_PROBLEMS
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Kind
from controlplane.xds.translate import Choices
from controlplane.xds.values import CONDITIONS
from tests.cluster import WEB, addresses, endpoint, endpoints_of, mesh, service, slice_of, translated, world
from tests.static_form import configuration, resources, validate

MANY_PORTS = [{"name": f"p{number}", "port": number} for number in range(1, 101)]


def ips(count: int) -> list[str]:
    return [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(count)]


def problems(raw: Json) -> list[str]:
    found = reading.service(raw)
    assert isinstance(found, Service)
    return [problem.message for problem in found.problems]


# What it costs


def test_a_slice_of_33_kb_takes_no_hundred_megabytes() -> None:
    """1,000 endpoints at 100 ports, which the API server takes; 100 MB, seen, where each pair was an object."""
    there = world(service(ports=MANY_PORTS))
    tracemalloc.start()
    try:
        there.put("EndpointSlice", slice_of(endpoints=ips(1000), ports=MANY_PORTS))
        found = there.mesh()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(endpoints_of(found, port="p100")) == 1000 * MOST_PLACES // 100_000


def test_a_service_has_so_many_endpoints_of_all_its_ports_and_its_author_is_told() -> None:
    found = mesh(
        service(ports=MANY_PORTS), slice_of(endpoints=ips(1000), ports=MANY_PORTS), service("b"), slice_of("b")
    )
    assert {len(endpoints_of(found, port=f"p{number}")) for number in range(1, 101)} == {MOST_PLACES // 100}
    assert [problem.about for problem in found.problems] == ["Service shop/orders"]
    assert addresses(found, "b") == ["10.0.0.1"]


def test_an_author_hears_no_more_of_it_once_there_are_fewer() -> None:
    there = world(service(ports=MANY_PORTS), slice_of(endpoints=ips(1000), ports=MANY_PORTS))
    assert there.mesh().problems
    there.put("EndpointSlice", slice_of(ports=MANY_PORTS))
    assert not there.mesh().problems


def test_ten_thousand_endpoints_of_one_port_are_all_called() -> None:
    assert len(endpoints_of(mesh(service(), slice_of(endpoints=ips(10_000))))) == 10_000


def test_ten_thousand_unknown_annotations_are_read_in_no_time_and_told_in_few_words() -> None:
    """Which fit into the 256 KB of an object's annotations; 4.5 s at each change of the Service, seen."""
    raw = service(annotations={f"{number:x}": "" for number in range(10_000)})
    before = time.process_time()
    told = problems(raw)
    assert time.process_time() - before < 0.5
    assert len(told) == MAX_PROBLEMS + 1
    assert told[-1] == "and 1 more"


def test_an_annotation_of_200_kb_that_lists_every_port_is_refused() -> None:
    (only,) = problems(service(annotations={"protocol": ",".join(f"{port}=tcp" for port in range(1, 26_000))}))
    assert len(only) < 300


def test_a_thousand_endpoints_that_are_refused_are_told_in_few_words() -> None:
    found = mesh(service(), slice_of(endpoints=["100.100.100.200"] * 1000))
    assert len(found.problems) <= MAX_PROBLEMS + 1
    assert any(problem.message.startswith("and 99") for problem in found.problems)


def test_endpoints_of_a_thousand_made_up_zones_leave_nothing_behind() -> None:
    """A megabyte for each of a thousand changes, seen."""
    patterns = messages._endpoints_like
    patterns.cache_clear()
    for number in range(3):
        zones = [endpoint(ip, zone=f"z{number}-{ip}".ljust(200, "z")) for ip in ips(1000)]
        assert translated(service(), slice_of(endpoints=zones)).get(Kind.ENDPOINTS, "shop/orders:80")
    assert patterns.cache_info().currsize == 0


# What it changes for others


def test_a_slice_of_another_namespace_is_nobody_elses() -> None:
    evil = slice_of(endpoints=["10.6.6.6"], namespace="evil")
    evil["metadata"]["labels"]["kubernetes.io/service-name"] = "shop/orders"
    named = slice_of(endpoints=["10.6.6.7"], namespace="evil", suffix="b")
    assert addresses(mesh(service(), slice_of(), evil, named)) == ["10.0.0.1"]


def test_what_another_namespace_calls_its_services_changes_nothing_in_a_pods_scope() -> None:
    plain = translated(service(), slice_of())
    evil = [
        service("orders", "evil", {"protocol": "tcp", "timeout": "1ms"}),
        service("shop", "svc"),
        service("com", "shop-"),
    ]
    beside = translated(service(), slice_of(), *evil, slice_of(namespace="evil", endpoints=["10.6.6.6"]))
    for kind in (Kind.CLUSTER, Kind.LISTENER):
        assert beside.names(kind, WEB) == plain.names(kind, WEB)
    assert beside.variant(Kind.ROUTES, WEB) == plain.variant(Kind.ROUTES, WEB) == "/shop"
    for kind, name in (
        (Kind.LISTENER, "out_80/shop"),
        (Kind.ROUTES, "http_80/shop"),
        (Kind.ENDPOINTS, "shop/orders:80"),
    ):
        assert beside.get(kind, name) == plain.get(kind, name)


def test_a_problem_is_told_of_whoever_has_it() -> None:
    found = mesh(service(), service("bad", "evil", {"retries": "many"}))
    assert [problem.about for problem in explain.problems(found)] == ["Service evil/bad"]


# What Envoy says to it

LONG = "a" * 63
TEXTS = [
    *("", " ", "0", "off", "%", "%REQ(x)%", "${x}", "'", '"', "\\", "\x00", "\r\nx: y", "a\nb", "é", "\uff41"),
    *("x" * 1000, "(a+)+$", "1e9s", "10000000", "999999999h", "header:x", "header::path", "header:" + "x" * 128),
    *("cookie:" + "!#$%&'*+.^_`|~-", "/", "/%00?#'\"{}", "/" + "~" * 1023, "tcp", "grpc", "65535=tcp,0=http", "all"),
    *("consistent-hash", "latency", "round-robin", ",".join(CONDITIONS), "1ms", "24h", "5m", "100", "1000"),
]


def hostile_services() -> list[Json]:
    """Each annotation with each text, at addresses and ports that others have as well, under names at their limits."""
    keys = [row.name for row in TABLE]
    made = []
    for number, text in enumerate(TEXTS):
        shifted = {key: TEXTS[(number + shift) % len(TEXTS)] for shift, key in enumerate(keys)}
        for which, annotations in enumerate((dict.fromkeys(keys, text), shifted)):
            ports: list[int | Json] = [
                80,
                443,
                {"port": 15001},
                {"port": 65535, "name": LONG},
                {"port": 1, "protocol": "SCTP"},
                80,
            ]
            name, namespace = f"s{number}-{which}".ljust(63, "x"), ("evil", "shop", LONG)[number % 3]
            ips = ["10.96.0.10", "fd00::10", f"10.96.1.{number}"]
            made.append(service(name, namespace, annotations, ports, clusterIPs=ips))
            made.append(slice_of(name, ["10.6.6.6", "240.0.0.1", "127.0.0.1", endpoint(zone=LONG * 4)], namespace))
    return made


def test_envoy_takes_what_hostile_services_come_to_with_all_others(tmp_path: Path) -> None:
    told = translated(*hostile_services(), service(), slice_of(), choices=Choices(Scope(default="cluster")))
    found = resources(told, WEB)
    code, said = validate(tmp_path, configuration(found))
    assert (code, told.rejected) == (0, {}), said
    hosts = [
        host for one in found["routes"] for host in one["virtual_hosts"] if host["name"].startswith("shop/orders:")
    ]
    assert len(hosts) == 1
    assert "orders.shop.svc.cluster.local" in hosts[0]["domains"]
