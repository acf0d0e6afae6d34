"""Which Service an address is, and what a sidecar's page says of what its pod calls."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.xds import destinations
from controlplane.xds.destinations import ADDRESS, BUDGET, INFO, PROBLEMS, Called
from controlplane.xds.mesh import Key
from tests.cluster import mesh, service

PAGE = """# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="shop/orders_80"} 5
envoy_cluster_upstream_rq_total{envoy_cluster_name="shop/orders_81"} 2
# TYPE envoy_cluster_endpoint_rq_total counter
envoy_cluster_endpoint_rq_total{envoy_cluster_name="passthrough",envoy_endpoint_address="10.96.0.7:80"} 3
"""


def named(*objects: dict[str, object]) -> dict[str, str]:
    """What the page of all addresses says: whose each is."""
    families = text_string_to_metric_families(destinations.page(mesh(*objects)).decode())
    (family,) = (one for one in families if one.name == INFO)
    return {
        one.labels[ADDRESS]: f"{one.labels['destination_namespace']}/{one.labels['destination_service']}"
        for one in family.samples
    }


def test_each_port_at_each_address_of_a_service_is_named() -> None:
    both = service(ports=[80, 443], clusterIPs=["10.96.0.10", "fd96::a"], ipFamilies=["IPv4", "IPv6"])
    assert named(both) == dict.fromkeys(
        ["10.96.0.10:80", "10.96.0.10:443", "[fd96::a]:80", "[fd96::a]:443"], "shop/orders"
    )


@pytest.mark.parametrize("raw", [service(clusterIP="None"), service(type="ExternalName")])
def test_a_service_without_addresses_of_its_own_has_none(raw: dict[str, object]) -> None:
    assert named(raw) == {}


@pytest.mark.parametrize(
    ("annotations", "metric", "value"),
    [({"retry-budget": "5"}, BUDGET, 0.05), ({"retries": "many", "timeout": "1s", "retreis": "2"}, PROBLEMS, 2)],
)
def test_a_service_that_is_out_of_the_ordinary_is_named(annotations: dict[str, str], metric: str, value: float) -> None:
    page = destinations.page(mesh(service(annotations=annotations), service("other")))
    (family,) = (one for one in text_string_to_metric_families(page.decode()) if one.name == metric)
    assert [(one.labels["destination_service"], one.value) for one in family.samples] == [("orders", value)]


def test_a_sidecars_page_says_how_often_each_was_called() -> None:
    assert destinations.read(PAGE) == Called({"10.96.0.7:80": 3}, {Key("shop", "orders"): 7})


def test_an_empty_page_says_nothing() -> None:
    assert destinations.read("") == Called({}, {})


@pytest.mark.parametrize("text", ["<html>", 'envoy_cluster_upstream_rq_total{envoy_cluster_name="a/b_80"} many\n'])
def test_what_is_no_such_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        destinations.read(text)
