"""Nodes without IPv6: the sidecar starts there, from the file that its init container chose, and carries traffic."""

from typing import Literal

import pytest

from tests import build
from tests.apiserver.processes import NotReadyError
from tests.build import sidecar_of
from tests.dataplane.lab import manifest
from tests.dataplane.limits import OK, PROTO
from tests.dataplane.pairs import IDLE, Pairs
from tests.dataplane.wire import read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
def test_traffic_passes_on_a_node_without_ipv6(between: Pairs, mode: Literal["redirect", "tproxy"]) -> None:
    allowed = build.operator("authors: {allow: {mode: [tproxy]}}")
    pod = between.lab.pod(manifest("web", IDLE, annotations={"mode": mode}), settings=allowed, ipv6=False)
    for pair in ((between.clients[False], pod), (pod, between.servers[False])):
        with wire(*pair) as line:
            line.near.sendall(GET)
            assert read(line.far) == GET[:-2] + PROTO + b"\r\n"
            line.far.sendall(OK)
            assert read(line.near, b"hi") == OK


def test_in_mode_none_the_operator_says_so(between: Pairs) -> None:
    settings = build.operator("bootstrap: {ipFamilies: ipv4}")
    written = manifest("web", IDLE, annotations={"mode": "none"})
    assert between.lab.pod(written, level="restricted", settings=settings, ipv6=False).kubelet.ready()


def test_without_that_choice_envoy_would_not_start(between: Pairs) -> None:
    pod = between.lab.create(manifest("web", IDLE), ipv6=False)
    arguments = sidecar_of(pod.document)["args"]
    arguments[arguments.index("--config-path") + 1] = "/etc/envoy-sidecar/bootstrap-dual.json"
    with pytest.raises(NotReadyError, match="envoy-sidecar is up"):
        pod.kubelet.start()
