"""Mode tproxy: like redirect, and the application sees its callers' addresses."""

import pytest

from tests import build
from tests.apiserver.processes import NotReadyError
from tests.build import sidecar_of
from tests.dataplane.lab import Lab, Pod, manifest
from tests.dataplane.limits import OK, PROTO
from tests.dataplane.network import Family
from tests.dataplane.pairs import IDLE, OPAQUE
from tests.dataplane.wire import read, wire

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

ALLOWED = build.operator("authors: {allow: {mode: [tproxy]}}")
NOTES = {"mode": "tproxy", "opaque-inbound-ports": f"{OPAQUE}", "opaque-outbound-ports": f"{OPAQUE}"}
GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def pods(node: Lab) -> tuple[Pod, Pod]:
    """A client without a sidecar and a server in this mode."""
    return node.pod(manifest("client", IDLE), inject=False), node.pod(
        manifest("server", IDLE, annotations=NOTES), settings=ALLOWED
    )


@families
@pytest.mark.parametrize("port", [8080, OPAQUE])
def test_the_application_sees_its_callers_address(pods: tuple[Pod, Pod], family: Family, port: int) -> None:
    client, server = pods
    with wire(client, server, family=family, port=port) as line:
        line.near.sendall(GET)
        assert line.far.getpeername()[0].removeprefix("::ffff:") == client.address[family]
        assert read(line.far).replace(PROTO, b"") == GET
        line.far.sendall(OK)
        assert read(line.near, b"hi") == OK


@families
def test_what_the_application_calls_passes_too(pods: tuple[Pod, Pod], family: Family) -> None:
    client, server = pods
    with wire(server, client, family=family) as line:
        line.near.sendall(GET)
        assert read(line.far) == GET[:-2] + PROTO + b"\r\n"
        line.far.sendall(OK)
        assert read(line.near, b"hi") == OK


@families
def test_pods_in_this_mode_talk_to_each_other(node: Lab, pods: tuple[Pod, Pod], family: Family) -> None:
    other = node.pod(manifest("other", IDLE, annotations=NOTES), settings=ALLOWED)
    with wire(other, pods[1], family=family) as line:
        line.near.sendall(GET)
        assert line.far.getpeername()[0].removeprefix("::ffff:") == other.address[family]
        line.far.sendall(OK)
        assert read(line.near, b"hi") == OK


def test_the_sidecar_has_the_one_capability_that_it_cannot_spare(node: Lab) -> None:
    pod = node.create(manifest("server", IDLE, annotations=NOTES), settings=ALLOWED)
    security = sidecar_of(pod.document)["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    security["capabilities"]["add"] = []
    with pytest.raises(NotReadyError):
        pod.kubelet.start()
