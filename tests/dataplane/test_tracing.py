"""Traces: what a collector receives by OTLP, and that nothing else depends on it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests import build
from tests.apiserver.processes import eventually
from tests.dataplane.lab import Lab, Pod, application, lab, manifest
from tests.dataplane.limits import OK
from tests.dataplane.pairs import IDLE
from tests.dataplane.wire import read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

SPAN = "b7ad6b7169203331"
COLLECTOR = 4317


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
        received = [json.loads(line) for line in self.otel.log("app").splitlines()]
        return [span for span in received if trace in ("", span["trace"])]


def mesh(node: Lab, otel: Pod, percent: float) -> Mesh:
    """Pods whose operator wants that share of the requests traced."""
    collector = f"{otel.address['ipv4']}:{COLLECTOR}"
    settings = build.operator(f"bootstrap: {{tracing: {{collector: '{collector}', percent: {percent}}}}}")
    web, orders = (node.pod(manifest(name, IDLE), settings=settings) for name in ("web", "orders"))
    return Mesh(web, orders, otel)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("tracing")) as made:
        yield made


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
