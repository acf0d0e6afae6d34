"""Traces: what a collector receives by OTLP, and that nothing else depends on it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from tests import build
from tests.apiserver.processes import eventually
from tests.dataplane.lab import Lab, Pod, application, manifest
from tests.dataplane.limits import OK
from tests.dataplane.pairs import IDLE
from tests.dataplane.told import admin
from tests.dataplane.wire import read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

SPAN = "b7ad6b7169203331"
TRACE = "0af7651916cd43dd8448eb211c80319e"
COLLECTOR, BY_NAME = 4317, "otel.observability"
YEAR = Validity.starting(datetime.now(UTC), timedelta(days=365))
OVER = Validity.starting(datetime.now(UTC) - timedelta(days=9), timedelta(days=1))
CA, ANOTHER_CA = (issue_ca(name, YEAR) for name in ("ca", "another"))


@dataclass(frozen=True, slots=True)
class Mesh:
    """Two pods and what collects their traces."""

    web: Pod
    orders: Pod
    otel: Pod

    def ask(self, *headers: str) -> dict[str, str]:
        """The headers of a request from one to the other, as its application gets them."""
        with wire(self.web, self.orders) as line:
            line.near.sendall("\r\n".join(["GET /a HTTP/1.1", "Host: orders", *headers, "", ""]).encode())
            lines = read(line.far).decode().split("\r\n")[1:-2]
            line.far.sendall(OK)
            read(line.near, b"hi")
        return {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}

    def spans(self, trace: str = "") -> list[dict[str, Any]]:
        """What has arrived, of one trace or of all."""
        received = [json.loads(line) for line in self.otel.log("app").splitlines() if line.startswith("{")]
        return [span for span in received if trace in ("", span["trace"])]


def mesh(node: Lab, otel: Pod, percent: float, *, host: str = "", ca: str = "") -> Mesh:
    """Pods whose operator wants that share of the requests traced, by TLS with a `ca`; they know `otel` by its name."""
    where = f"{host or otel.address['ipv4']}:{COLLECTOR}"
    tracing = {"collector": where, "percent": percent, "ca": ca}
    settings = build.operator(json.dumps({"bootstrap": {"tracing": tracing}}))
    known = [{"ip": otel.address["ipv4"], "hostnames": [BY_NAME]}]
    made = [node.create(manifest(name, IDLE, hostAliases=known), settings=settings) for name in ("web", "orders")]
    for pod in made:
        mount(pod, "ssl/certs/ca-certificates.crt", CA.certificate)  # as Envoy's image has it
        pod.kubelet.start()
        pod.kubelet.wait_until_ready()
    return Mesh(made[0], made[1], otel)


@pytest.fixture(scope="module")
def otel(node: Lab) -> Pod:
    app = application("otlp_app.py", f"{COLLECTOR}", readinessProbe={"tcpSocket": {"port": COLLECTOR}})
    return node.pod(manifest("otel", app), inject=False)


@pytest.fixture(scope="module")
def none_begun(node: Lab, otel: Pod) -> Mesh:
    return mesh(node, otel, 0)


@pytest.fixture(scope="module")
def all_begun(node: Lab, otel: Pod) -> Mesh:
    return mesh(node, otel, 100)


def test_both_sidecars_send_their_span_of_a_trace(none_begun: Mesh) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    got = none_begun.ask(f"traceparent: 00-{trace}-{SPAN}-01")
    eventually(lambda: len(none_begun.spans(trace)) == 2, "two spans arrive")
    spans = {span["resource"]["k8s.pod.name"]: span for span in none_begun.spans(trace)}
    assert spans["web"]["parent"] == SPAN
    assert spans["orders"]["parent"] == spans["web"]["span"]
    assert got["traceparent"] == f"00-{trace}-{spans['orders']['span']}-01"
    assert spans["orders"]["resource"]["service.name"] == "orders"
    assert spans["orders"]["resource"]["k8s.namespace.name"] == "shop"


def test_other_contexts_and_ids_of_requests_are_left_alone(none_begun: Mesh) -> None:
    got = none_begun.ask("b3: 1", "X-Request-Id: mine")
    assert (got["b3"], got["x-request-id"]) == ("1", "mine")


def test_what_its_caller_does_not_sample_is_not_sent(all_begun: Mesh) -> None:
    trace = "0af7651916cd43dd8448eb211c80319d"
    all_begun.ask(f"traceparent: 00-{trace}-{SPAN}-00")
    before = len(all_begun.spans())
    all_begun.ask()
    eventually(lambda: len(all_begun.spans()) >= before + 2, "the spans of the other request arrive")
    assert all_begun.spans(trace) == []


def test_no_more_traces_are_begun_than_the_operator_wants(none_begun: Mesh) -> None:
    assert none_begun.ask().get("traceparent", "00-0-0-00").endswith("-00")


def test_a_collector_that_is_gone_holds_up_no_request(node: Lab, none_begun: Mesh) -> None:
    nobody = mesh(node, none_begun.web, 100)  # a pod that listens on no such port
    assert nobody.ask()["host"] == "orders"


# By TLS


def collector(node: Lab, shown: Bundle | None) -> Pod:
    """One that shows this certificate; without any, one that speaks no TLS."""
    arguments = [f"{COLLECTOR}", *(["/etc/tls"] if shown else [])]
    app = application("otlp_app.py", *arguments, readinessProbe={"tcpSocket": {"port": COLLECTOR}})
    pod = node.create(manifest("otel", app), inject=False)
    if shown:
        mount(pod, "tls/tls.crt", shown.certificate)
        mount(pod, "tls/tls.key", shown.key)
    pod.kubelet.start()
    pod.kubelet.wait_until_ready()
    return pod


def mount(pod: Pod, path: str, content: bytes) -> None:
    """A file in the /etc of a pod that does not run yet."""
    place = pod.folder / "etc" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def leaf(ca: Bundle = CA, names: Sequence[str] = (BY_NAME,), validity: Validity = YEAR) -> Bundle:
    return issue_leaf(ca, names, validity)


def stat(pod: Pod, name: str) -> int:
    """A counter of what the pod's sidecar does with the collector; 0 before it has one."""
    page = admin(pod, f"/stats?filter=^cluster.tracing.{name}$")
    return int(page.split()[-1]) if page.strip() else 0


@pytest.mark.parametrize("ca", ["system", CA.certificate.decode()], ids=["of the image", "of the settings"])
def test_spans_go_by_tls_to_a_collector_that_shows_a_certificate_of_the_ca(node: Lab, ca: str) -> None:
    traced = mesh(node, collector(node, leaf()), 0, host=BY_NAME, ca=ca)
    traced.ask(f"traceparent: 00-{TRACE}-{SPAN}-01")
    eventually(lambda: len(traced.spans(TRACE)) == 2, "two spans arrive")
    assert stat(traced.web, "ssl.versions.TLSv1.3") >= 1


def test_a_collector_may_be_an_address_that_its_certificate_holds(node: Lab) -> None:
    address = "10.77.0.{}"  # of the next pod, whatever its number
    names = [address.format(number) for number in range(1, 100)]
    traced = mesh(node, collector(node, leaf(names=names)), 0, ca=CA.certificate.decode())
    traced.ask(f"traceparent: 00-{TRACE}-{SPAN}-01")
    eventually(lambda: len(traced.spans(TRACE)) == 2, "two spans arrive")


@pytest.mark.parametrize(
    ("shown", "refused"),
    [
        (partial(leaf, ANOTHER_CA), "ssl.fail_verify_error"),
        (partial(leaf, names=["else.observability"]), "ssl.fail_verify_san"),
        (partial(leaf, validity=OVER), "ssl.fail_verify_error"),
        (lambda: None, "ssl.connection_error"),
    ],
    ids=["another CA", "another name", "expired", "no TLS"],
)
def test_a_collector_that_shows_no_such_certificate_gets_nothing_and_requests_pass(
    node: Lab, shown: Callable[[], Bundle | None], refused: str
) -> None:
    traced = mesh(node, collector(node, shown()), 100, host=BY_NAME, ca=CA.certificate.decode())
    assert traced.ask()["host"] == "orders"
    for pod in (traced.web, traced.orders):
        eventually(partial(stat, pod, refused), "the sidecar refuses the collector")
    assert traced.ask()["host"] == "orders"
    assert traced.spans() == []
