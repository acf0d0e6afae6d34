"""Callers and replicas with sidecars, which tell each other what no application hears: that a replica's was never
reached, and how long it takes."""

import http.client
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import count
from threading import Timer
from time import monotonic

import pytest

from controlplane.extensions import Json
from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED
from tests import cluster
from tests.apiserver.processes import eventually
from tests.build import operator
from tests.dataplane.container import CHECKOUT
from tests.dataplane.exchange import exchange, request
from tests.dataplane.lab import Lab, Pod, application, asks, manifest
from tests.dataplane.load import load
from tests.dataplane.network import Family
from tests.dataplane.orders import stat
from tests.dataplane.told import CLUSTER_IP, ControlPlane, admin, ask, replica, told

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]
Caller = tuple[Pod, ControlPlane]
ADDRESS: dict[Family, str] = {"ipv4": CLUSTER_IP, "ipv6": "fd96::1"}
ALLOWED = operator("authors: {allow: {mode: [tproxy, none]}}")
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
modes = pytest.mark.parametrize("mode", ["redirect", "tproxy"])


@pytest.fixture(scope="module")
def caller(node: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    pod, plane = told(node, manifest("web", application("echo.py", "8080")), tmp_path_factory.mktemp("controlplane"))
    plane.say()
    with plane.serving():
        pod.kubelet.start()
        pod.kubelet.wait_until_ready()
        yield pod, plane


def tell(caller: Caller, name: str, pods: Sequence[Pod], family: Family = "ipv4", **annotations: str) -> None:
    """From now on the cluster is the Service of that name, of these pods, and the caller's proxy knows it."""
    pod, plane = caller
    mark = f"{next(_MARKS)}s"  # a timeout, which routes have, and those are told last
    spec: Json = {"clusterIP": ADDRESS[family], "ipFamilies": [_FAMILY[family]]}
    named = {key.replace("_", "-"): text for key, text in annotations.items()}
    addresses = [one.address[family] for one in pods]
    plane.say(
        cluster.service(name, annotations={**named, "timeout": mark}, **spec),
        cluster.slice_of(name, addresses, family=_FAMILY[family]),
    )
    for address in addresses:
        pod.call(partial(ask, address, 8080, "/"))  # the first packet to an address may take a second
    eventually(lambda: f'"timeout": "{mark}"' in admin(pod, "/config_dump"), "the routes are told")
    eventually(lambda: all(f"{one}" in admin(pod, "/clusters") for one in addresses), "the endpoints are told")


_FAMILY: dict[Family, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}
_MARKS = count(1000)


def started(node: Lab, name: str, mode: str = "redirect", container: Json | None = None) -> Pod:
    """A pod with a sidecar, whose application is not started again."""
    notes = {"mode": mode}
    document = manifest(name, container or replica(name), annotations=notes, restartPolicy="Never")
    return node.pod(document, settings=ALLOWED)


# That the application was never reached


@families
@modes
def test_where_an_application_is_gone_every_post_is_answered_by_another(
    node: Lab, caller: Caller, mode: str, family: Family
) -> None:
    pods = [started(node, name, mode) for name in ("gone", "there")]
    pods[0].container("app").kill()
    tell(caller, "orders", pods, family)
    before = retries(caller[0])
    assert [caller[0].call(lambda: ask(ADDRESS[family], 80, "/", "POST")) for _ in range(12)] == [(200, "there")] * 12
    assert retries(caller[0]) > before


def retries(pod: Pod) -> int:
    """How many requests to orders its proxy has sent again."""
    return stat(pod, "cluster.shop/orders_80.upstream_rq_retry")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_of_a_hundred_requests_a_second_a_killed_application_fails_those_it_had_begun_and_nobody_was_told_for_3_seconds(
    node: Lab, caller: Caller, method: str
) -> None:
    pods = [started(node, f"{method.lower()}-{name}") for name in ("one", "two", "three")]
    tell(caller, "orders", pods)
    for pod in pods:
        pod.call(lambda: ask("127.0.0.1", 8080, "/behave/200/5"))
    threads, path = 3, f"/{monotonic()}/{{}}"  # which may all meet the dead one at once: the default of retry-minimum
    killing = Timer(1.0, pods[0].container("app").kill)
    killing.start()
    answered = load(caller[0], threads=threads, each=134, rate=100, method=method, path=path)
    failed = sum(answer.status != 200 for answer in answered)
    # By its sidecar, as a log has none that the application had received and not read yet.
    lost = stat(pods[0], "cluster.inbound.upstream_cx_destroy_remote_with_active_rq")
    print(f"{method}: {failed} of {len(answered)} failed; {lost} were in flight in the killed application")
    assert executions(pods[:1], path)
    assert failed <= (0 if method == "GET" else min(lost, 1))  # 100 a second of 5 ms: rarely more than one at once
    if method == "POST":
        assert set(executions(pods, path).values()) == {1}


def test_of_the_requests_that_a_killed_application_had_begun_the_post_fails_and_gets_are_answered_by_others(
    node: Lab, caller: Caller
) -> None:
    pods = [started(node, f"begun-{name}") for name in ("one", "two", "three")]
    tell(caller, "orders", pods, load_balancing="round-robin")  # so that each caller comes to the one that is killed
    pods[0].call(lambda: ask("127.0.0.1", 8080, "/behave/200/60000"))
    posts, gets = f"/post/{monotonic()}/{{}}", f"/get/{monotonic()}/{{}}"
    with ThreadPoolExecutor() as pool:
        posted = pool.submit(load, caller[0], threads=1, each=12, method="POST", path=posts)
        got = pool.submit(load, caller[0], threads=2, each=12, path=gets)
        for path, number in ((posts, 1), (gets, 2)):
            eventually(lambda: executions(pods[:1], path).total() == number, "it has begun them")  # noqa: B023
        pods[0].container("app").kill()
    assert Counter(answer.status == 200 for answer in posted.result()) == {True: 11, False: 1}
    assert set(executions(pods, posts).values()) == {1}
    assert {answer.status for answer in got.result()} == {200}


def executions(pods: Sequence[Pod], path: str) -> Counter[str]:
    """How often each request to paths like this was begun, by the applications' own logs."""
    prefix = path.format("")
    return Counter(line for pod in pods for line in pod.log("app").splitlines() if prefix in line)


@pytest.mark.parametrize("inject", [True, False], ids=["with a sidecar", "without"])
def test_an_application_that_passes_on_that_another_was_not_reached_is_not_asked_again(
    node: Lab, caller: Caller, inject: bool
) -> None:
    gone = started(node, "gone")
    gone.container("app").kill()
    listens = {"tcpSocket": {"port": 8080}}
    program = application("relay_app.py", "8080", gone.address["ipv4"], "8080", readinessProbe=listens)
    relays = [node.pod(manifest(f"relay-{number}", program), inject=inject) for number in range(2)]
    tell(caller, "relay", relays)
    path = f"/{monotonic()}"
    assert caller[0].call(lambda: headers("POST", path, "relay"))[0] == 503
    assert executions(relays, path).total() == 1


def headers(method: str, path: str, host: str) -> tuple[int, list[str]]:
    """Status, and the names of the headers of the answer."""
    with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=10)) as connection:
        connection.request(method, path, headers={"Host": host})
        with connection.getresponse() as response:
            return response.status, [name.lower() for name, _ in response.getheaders()]


# Neither is heard by an application


@modes
@pytest.mark.parametrize("balancing", ["latency", "least-request"])
def test_what_sidecars_tell_each_other_no_application_hears(
    node: Lab, caller: Caller, mode: str, balancing: str
) -> None:
    pods = [started(node, "echo", mode, application("echo.py", "8080", readinessProbe=asks(8080)))]
    tell(caller, "orders", pods, load_balancing=balancing)

    def exchanged() -> tuple[list[str], str]:
        with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=10)) as connection:
            connection.request("GET", "/", headers={"Host": "orders", UNPROCESSED: "1", ASKS_LOAD: "1"})
            with connection.getresponse() as response:
                return [name.lower() for name, _ in response.getheaders()], response.read().decode().lower()

    returned, arrived = caller[0].call(exchanged)
    assert not {UNPROCESSED, LOAD_REPORT, ASKS_LOAD} & set(returned)
    assert ASKS_LOAD not in arrived


def test_a_replica_without_a_sidecar_is_asked_for_its_load_in_vain(node: Lab, caller: Caller) -> None:
    pod = node.pod(manifest("bare", application("echo.py", "8080", readinessProbe=asks(8080))), inject=False)
    tell(caller, "orders", [pod], load_balancing="latency")
    assert f"{ASKS_LOAD}: 1" in caller[0].call(lambda: ask(CLUSTER_IP, 80, "/"))[1]
    tell(caller, "orders", [pod])
    assert ASKS_LOAD not in caller[0].call(lambda: ask(CLUSTER_IP, 80, "/"))[1]


@pytest.mark.parametrize("inject", [True, False], ids=["with a sidecar", "without"])
@pytest.mark.parametrize("balancing", ["latency", "least-request"])
def test_what_an_application_claims_of_itself_its_caller_never_hears(
    node: Lab, caller: Caller, inject: bool, balancing: str
) -> None:
    """But a report of its load, where nobody asked for one: that is a header of the application's like others."""
    pods = [node.pod(manifest("claims", replica("claims")), inject=inject)]
    tell(caller, "orders", pods, load_balancing=balancing)
    _, names = caller[0].call(lambda: headers("GET", "/", "orders"))
    assert UNPROCESSED not in names
    assert (LOAD_REPORT in names) == (balancing != "latency")


# What passes a sidecar passes one that is told as well


def test_upgrades_tunnels_and_bodies_pass(node: Lab, caller: Caller) -> None:
    pod = started(node, "echo", container=application("echo.py", "8080", readinessProbe=asks(8080)))
    tell(caller, "orders", [pod])

    def sent(*lines: str) -> bytes:
        answer = caller[0].call(lambda: exchange(CLUSTER_IP, 80, request(*lines, "Host: orders")))
        return answer.head.split(b"\r\n")[0] + b" " + answer.body.split(b"\r\n")[0]

    assert sent("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket").startswith(b"HTTP/1.1 101 ")
    assert sent("CONNECT orders:80 HTTP/1.1").startswith(b"HTTP/1.1 200 OK CONNECT orders:80")
    assert sent("PUT /a/../b HTTP/1.1", "Content-Length: 0") == b"HTTP/1.1 200 OK PUT /a/../b HTTP/1.1"


def test_grpc_calls_of_every_kind_pass(node: Lab, caller: Caller) -> None:
    server = application("grpc_app.py", "serve", "8080", readinessProbe={"tcpSocket": {"port": 8080}})
    tell(caller, "orders", [started(node, "grpc", container=server)], load_balancing="latency")
    program = str(CHECKOUT / "tests" / "dataplane" / "grpc_app.py")
    made = caller[0].container("app").execute([sys.executable, program, "call", CLUSTER_IP, "80"])
    assert made.returncode == 0, made.stderr
    seen = json.loads(made.stdout)
    assert seen["streamed"] == ["0!", "1!", "2!", "3!", "4!"]
    assert seen["failing"][0] == "FAILED_PRECONDITION"
    assert not [name for name in (UNPROCESSED, LOAD_REPORT, ASKS_LOAD) if name in made.stdout]
