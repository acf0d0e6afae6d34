"""The real Envoy with the real bootstrap behind the real rules: what passes, unchanged, and what is refused."""

import json
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controlplane.bootstrap import AccessLog, Bootstrap, overlay, render
from tests import envoy
from tests.apiserver.processes import eventually, running
from tests.dataplane.network import PEER, POD, Family, Namespace, Network, network
from webhook.redirect import Redirection

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

APP, GREETER = 8080, 8081
ENVOY = 1337
RULES = Redirection(
    mode="redirect",
    uid=ENVOY,
    gid=ENVOY,
    opaque_inbound_ports=((GREETER, GREETER),),
    opaque_outbound_ports=((GREETER, GREETER),),
)
READY = b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Exchange = Callable[..., bytes]
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])

_START = """
touch /run/envoy && mount --bind "$0" /run/envoy
exec setpriv --reuid=1337 --regid=1337 --clear-groups /run/envoy "$@"
"""


@contextmanager
def sidecar(pod: Namespace, access_log: AccessLog, variant: str = "dual") -> Iterator[Path]:
    """Envoy as a pod runs it; its output's file."""
    (pod.folder / "bootstrap.json").write_text(render(Bootstrap())[f"bootstrap-{variant}.json"])
    laid_over = json.dumps(overlay(node_metadata={"namespace": "shop"}, access_log=access_log))
    arguments = ["-c", "/run/bootstrap.json", "--config-yaml", laid_over, "--service-node", "web-0.shop"]
    options = ["--service-cluster", "web", "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
    log = pod.folder / f"envoy-{access_log}.log"
    with running(pod.wrap("sh", "-c", _START, str(envoy.binary()), *arguments, *options), log):
        eventually(lambda: ready(pod), f"Envoy is ready, see {log}")
        yield log


def ready(pod: Namespace) -> bool:
    try:
        return b" 200 OK" in pod.send("127.0.0.1", 15021, READY)
    except Exception:
        return False


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A pod with rules, Envoy and an application, and a peer with an application."""
    with ExitStack() as stack:
        net = stack.enter_context(network(tmp_path_factory.mktemp("envoy")))
        stack.enter_context(sidecar(net.pod, "all"))
        applied = net.pod.redirect(RULES, "nft")
        assert applied.returncode == 0, applied.stderr
        for namespace in (net.pod, net.peer):
            stack.enter_context(namespace.serving("echo.py", str(APP), ports=[APP, GREETER], uid=1000))
        yield net


def received(answer: bytes) -> list[bytes]:
    """The request as the application received it, without what Envoy cannot leave out."""
    head = answer.split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n").split(b"\r\n")
    return [line for line in head if not re.match(rb"(x-request-id|x-forwarded-proto):", line, re.IGNORECASE)]


def request(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


MANY = [f"X-Header-{number}: {number}" for number in range(600)]
UNCHANGED: dict[str, Sequence[str]] = {
    "a path with dots, doubled and escaped slashes": ["GET /a/../b//c%2Fd?e=f HTTP/1.1", "Host: web"],
    "the case of header names": ["GET / HTTP/1.1", "Host: web", "X-MiXeD: 1", "under_score: 1"],
    "600 headers": ["GET / HTTP/1.1", "Host: web", *MANY],
    "a header of 200 KB": ["GET / HTTP/1.1", "Host: web", f"X-Large: {'a' * 200_000}"],
    "X-Forwarded-For": ["GET / HTTP/1.1", "Host: web", "X-Forwarded-For: 1.2.3.4"],
    "websocket": ["GET / HTTP/1.1", "Host: web", "Connection: Upgrade", "Upgrade: websocket"],
    "SPDY": ["POST / HTTP/1.1", "Host: web", "Connection: Upgrade", "Upgrade: SPDY/3.1"],
    "CONNECT": ["CONNECT elsewhere:443 HTTP/1.1", "Host: elsewhere:443"],
}


def inbound(net: Network, sent: bytes, family: Family = "ipv4") -> bytes:
    """What a client gets for a request to the application."""
    return net.peer.send(POD[family], APP, sent, blank_lines=2)


def outbound(net: Network, sent: bytes, family: Family = "ipv4") -> bytes:
    """What the application gets for a request to another host."""
    return net.pod.send(PEER[family], APP, sent, uid=1000, blank_lines=2)


directions = pytest.mark.parametrize("exchange", [inbound, outbound])


@directions
@pytest.mark.parametrize("name", UNCHANGED)
def test_requests_arrive_as_they_were_sent(net: Network, exchange: Exchange, name: str) -> None:
    sent = request(*UNCHANGED[name])
    assert received(exchange(net, sent)) == sent.strip().split(b"\r\n")


@directions
@families
def test_requests_pass_in_both_families(net: Network, exchange: Exchange, family: Family) -> None:
    assert exchange(net, request("GET / HTTP/1.1", "Host: web"), family).startswith(b"HTTP/1.1 200 OK\r\n")


@directions
def test_responses_keep_their_case_and_get_no_header_of_envoys(net: Network, exchange: Exchange) -> None:
    answer = exchange(net, request("GET / HTTP/1.1", "Host: web"))
    assert b"X-Mixed-CASE: kept" in answer
    assert b"x-envoy" not in answer.lower()
    assert b"server:" not in answer.lower()


@directions
def test_500_response_headers_pass(net: Network, exchange: Exchange) -> None:
    answer = exchange(net, request("GET / HTTP/1.1", "Host: web", "X-Answer-Headers: 500"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"x-answer-") == 500


@directions
def test_http_1_0_without_a_host_passes(net: Network, exchange: Exchange) -> None:
    assert b" 200 OK" in exchange(net, request("GET / HTTP/1.0"))


@directions
def test_a_limit_of_envoy_the_absolute_form_becomes_a_path(net: Network, exchange: Exchange) -> None:
    sent = request("GET http://elsewhere/a HTTP/1.1", "Host: elsewhere")
    assert received(exchange(net, sent)) == [b"GET /a HTTP/1.1", b"Host: elsewhere"]


@directions
def test_a_limit_of_envoy_an_asterisk_is_not_found(net: Network, exchange: Exchange) -> None:
    sent = request("OPTIONS * HTTP/1.1", "Host: web", "Connection: close")
    assert exchange(net, sent).startswith(b"HTTP/1.1 404 Not Found\r\n")


@families
def test_a_server_that_speaks_first_is_heard_through_opaque_ports(net: Network, family: Family) -> None:
    assert net.peer.send(POD[family], GREETER, b"") == b"hello"
    assert net.pod.send(PEER[family], GREETER, b"", uid=1000) == b"hello"


@families
@pytest.mark.parametrize("port", [15001, 15002, 15003, 15006, 15007])
def test_envoys_own_ports_are_refused_from_outside(net: Network, family: Family, port: int) -> None:
    assert net.peer.send(POD[family], port, b"no protocol\n") == b""


@pytest.mark.parametrize("port", [15001, 15003, 15006, 15007])
def test_envoys_own_ports_are_refused_to_the_application(net: Network, port: int) -> None:
    assert net.pod.send("127.0.0.1", port, b"no protocol\n", uid=1000) == b""


def test_metrics_are_served_to_any_monitor(net: Network) -> None:
    page = net.peer.send(POD["ipv4"], 15090, READY.replace(b"/ready", b"/stats/prometheus"))
    assert b"envoy_server_live" in page


@pytest.mark.parametrize("port", [15021, 15090])
@pytest.mark.parametrize(
    "line", ["POST /quitquitquit", "GET /config_dump", "POST /ready", "GET /stats/prometheus/../../"]
)
def test_nothing_else_of_the_admin_interface_is(net: Network, port: int, line: str) -> None:
    answer = net.peer.send(POD["ipv4"], port, request(f"{line} HTTP/1.1", "Host: x", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_the_admin_socket_is_its_owners_alone(net: Network) -> None:
    found = (net.pod.folder / "envoy-sidecar/admin.sock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, ENVOY)


@pytest.mark.parametrize(("choice", "statuses"), [("off", []), ("errors", [503]), ("all", [200, 503])])
def test_a_pod_chooses_what_is_logged(tmp_path: Path, choice: AccessLog, statuses: list[int]) -> None:
    with network(tmp_path) as net:
        with sidecar(net.pod, choice) as log, net.pod.serving("echo.py", str(APP), ports=[APP], uid=1000):
            net.pod.redirect(RULES, "nft")
            for status in ("200 OK", "503 Service Unavailable"):
                inbound(net, request("GET / HTTP/1.1", "Host: web", f"X-Answer-Status: {status}"))
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert [line["status"] for line in lines] == statuses
        assert all(line["direction"] == "inbound" for line in lines)


def test_envoy_starts_where_the_pod_has_no_ipv6(tmp_path: Path) -> None:
    with network(tmp_path) as net:
        net.pod.run("sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1")
        with sidecar(net.pod, "errors", "ipv4") as log:
            assert log.read_text() == ""
