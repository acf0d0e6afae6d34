"""A proxy that is told of Services, with real traffic: three replicas with sidecars, and what callers see."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from tests.apiserver.processes import eventually
from tests.dataplane.lab import Lab, Pod, manifest
from tests.dataplane.load import load, mean_milliseconds
from tests.dataplane.orders import requests, stat
from tests.dataplane.services import service
from tests.dataplane.told import (
    CLUSTER_IP,
    ControlPlane,
    admin,
    ask,
    orders,
    replica,
    started,
    until_told,
)

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def replicas(node: Lab) -> list[Pod]:
    made = [node.pod(manifest(name, replica(name))) for name in NAMES]
    service(node, made)
    return made


@pytest.fixture(scope="module")
def web(
    node: Lab, replicas: Sequence[Pod], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pod, ControlPlane]]:
    """A caller, told of orders."""
    pod, plane = started(node, tmp_path_factory.mktemp("controlplane"))
    plane.say(*orders(replicas))
    with plane.serving():
        until_told(pod, "out_80")
        yield pod, plane


@pytest.fixture
def caller(web: tuple[Pod, ControlPlane], replicas: Sequence[Pod]) -> tuple[Pod, ControlPlane]:
    """The same, with no annotation, and all replicas answer, so that no test meets what another one left."""
    pod, plane = web
    behave(replicas, 200)
    plane.say(*orders(replicas))
    eventually(lambda: len(answers(pod, 30)) == len(NAMES), "every replica answers", seconds=60)
    return pod, plane


def behave(pods: Sequence[Pod], status: int, milliseconds: float = 0) -> None:
    for pod in pods:
        pod.call(lambda: ask("127.0.0.1", 8080, f"/behave/{status}/{milliseconds}"))


def call(pod: Pod, method: str = "GET", path: str = "/", **headers: str) -> tuple[int, str]:
    """What the application of `pod` gets from orders."""
    return pod.call(lambda: ask(CLUSTER_IP, 80, path, method, **headers))


def answers(pod: Pod, count: int, **headers: str) -> Counter[str]:
    """Who answered how many of so many requests."""
    return Counter(body for status, body in (call(pod, **headers) for _ in range(count)) if status == 200)


def of_orders(pod: Pod, name: str) -> int:
    """A number of its Envoy, about orders."""
    return stat(pod, f"cluster.shop/orders_80.{name}")


def test_requests_are_spread_over_the_endpoints(caller: tuple[Pod, ControlPlane]) -> None:
    spread = answers(caller[0], 60)
    assert set(spread) == set(NAMES)
    assert sum(spread.values()) == 60


def test_while_one_of_three_fails_every_get_is_answered_and_it_is_left_alone(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    plane.say(*orders(replicas, eject_for="10s"))
    eventually(lambda: '"base_ejection_time": "10s"' in admin(pod, "/config_dump"), "that is in effect", seconds=10)
    eventually(lambda: len(answers(pod, 30)) == len(NAMES), "every replica answers", seconds=60)
    behave(replicas[:1], 503)
    failing = f"/{monotonic()}"
    assert [call(pod, path=failing)[0] for _ in range(60)] == [200] * 60
    assert requests(replicas[:1], failing) == 5
    behave(replicas[:1], 200)
    eventually(lambda: answers(pod, 5)["one"] > 0, "it is back", seconds=60)


def test_an_endpoint_that_nobody_listens_at_fails_no_request_of_any_method(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    there, gone = orders(replicas)
    gone["ports"][0]["port"] = 8080
    gone["endpoints"].append({"addresses": ["10.77.0.254"], "conditions": {"ready": True}})
    plane.say(there, gone)
    eventually(lambda: "10.77.0.254:8080" in admin(pod, "/clusters"), "it is told", seconds=10)
    before = of_orders(pod, "upstream_cx_connect_fail")
    assert [call(pod, "POST")[0] for _ in range(30)] == [200] * 30
    assert of_orders(pod, "upstream_cx_connect_fail") > before


def test_an_endpoint_that_goes_is_not_called_any_more(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    plane.say(*orders(replicas[1:]))
    eventually(lambda: "one" not in answers(pod, 10), "it is left alone", seconds=10)
    assert set(answers(pod, 30)) == {"two", "three"}


def test_a_header_decides_where_consistent_hash_sends_it(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    plane.say(*orders(replicas, load_balancing="consistent-hash", hash_on="header:x-customer"))
    eventually(lambda: len(answers(pod, 10, **{"x-customer": "7"})) == 1, "it is in effect", seconds=10)
    everyone = {next(iter(answers(pod, 5, **{"x-customer": str(number)}))) for number in range(20)}
    assert everyone == set(NAMES)


def test_latency_sends_little_to_a_replica_while_it_is_slow(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    plane.say(*orders(replicas, load_balancing="latency"))
    behave(replicas[:1], 200, 60)
    behave(replicas[1:], 200, 2)
    eventually(lambda: answers(pod, 50)["one"] <= 3, "it is weighed", seconds=30)
    behave(replicas, 200, 2)
    quick = monotonic()

    def shared() -> bool:
        return Counter(answer.body for answer in load(pod, threads=5, each=40, rate=200))["one"] > 40

    eventually(shared, "it gets its share again", seconds=60)
    print(f"a replica that is quick again has its share after {monotonic() - quick:.0f} s")


@pytest.mark.parametrize(("threads", "each", "most"), [(5, 60, 2.0), (100, 5, 1.3)], ids=["5", "100"])
def test_when_everything_fails_the_budget_refuses_most_retries(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod], threads: int, each: int, most: float
) -> None:
    pod, _ = caller
    behave(replicas, 503, 20)
    path, before = f"/{monotonic()}", of_orders(pod, "upstream_rq_retry_overflow")
    answered = load(pod, threads=threads, each=each, path=path)
    refused = of_orders(pod, "upstream_rq_retry_overflow") - before
    assert {answer.status for answer in answered} == {503}
    amplification = requests(replicas, path) / len(answered)
    print(f"{threads} at once: {amplification:.2f} requests for each; the budget refused {refused} retries")
    assert 1 < amplification <= most
    assert refused > 0


@pytest.mark.alone
def test_latency_is_a_quarter_of_what_it_is_by_turns_where_one_of_three_is_slow(
    caller: tuple[Pod, ControlPlane], replicas: Sequence[Pod]
) -> None:
    pod, plane = caller
    means = {}
    behave(replicas[:1], 200, 60)
    behave(replicas[1:], 200, 2)
    for balancing in ("round-robin", "least-request", "latency"):
        plane.say(*orders(replicas, load_balancing=balancing))
        eventually(partial(_is_balanced, pod, balancing), f"{balancing} is in effect")
        load(pod, threads=5, each=80, rate=200)  # so that all is weighed
        # A neighbour's load only adds, and to the fastest by far the most: the best of five is the least told of it.
        means[balancing] = min(mean_milliseconds(load(pod, threads=5, each=60, rate=200)) for _ in range(5))
    print(means)
    assert means["latency"] <= means["round-robin"] / 4


def _is_balanced(pod: Pod, how: str) -> bool:
    return _BALANCERS[how] in admin(pod, "/config_dump")


_BALANCERS = {
    "round-robin": "envoy.load_balancing_policies.round_robin",
    "least-request": "envoy.load_balancing_policies.least_request",
    "latency": "client_side_weighted_round_robin",
}


def test_a_node_without_ipv6_is_told_as_any_other(node: Lab, replicas: Sequence[Pod], tmp_path: Path) -> None:
    behave(replicas, 200)
    pod, plane = started(node, tmp_path, "four", ipv6=False)
    plane.say(*orders(replicas))
    with plane.serving():
        until_told(pod, "out_80")
        assert sum(answers(pod, 10).values()) == 10


def test_a_control_plane_that_is_absent_killed_and_back_with_nothing_fails_no_request(
    node: Lab, replicas: Sequence[Pod], tmp_path: Path
) -> None:
    behave(replicas, 200)
    pod, plane = started(node, tmp_path, "alone")
    assert sum(answers(pod, 20).values()) == 20
    plane.say(*orders(replicas))
    with plane.serving() as process:
        until_told(pod, "out_80")
        process.kill()
        process.wait()
        assert sum(answers(pod, 50).values()) == 50
    plane.say()
    statuses: list[int] = []

    def passes_through() -> bool:
        statuses.append(call(pod)[0])
        return "shop/orders" not in admin(pod, "/clusters")

    with plane.serving():
        eventually(passes_through, "the proxy is told that there is nothing", seconds=60)
        statuses += [call(pod)[0] for _ in range(50)]
    assert set(statuses) == {200}
