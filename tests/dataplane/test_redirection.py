"""Where a connection lands once the rules are in place, proved with real packets: one table, for every mode, back end,
family and user."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import pytest

from controlplane.xds import redirection
from controlplane.xds.redirection import Seen, Unseen
from tests import build
from tests.dataplane.landing import Landing, dial, listeners
from tests.dataplane.netns import NetNs
from tests.dataplane.network import LOOPBACK, PEER, PEER_ELSEWHERE, POD, Backend, Family, Network, network
from webhook.redirect import Redirection

pytestmark = pytest.mark.dataplane

APP, EXCLUDED, OPAQUE, DNS = 8080, 9000, 9092, 53
MONITORED = [15020, 15021, 15090]
OWN = [15001, 15003, 15006, 15007]
PORTS = [APP, EXCLUDED, OPAQUE, 15002, *MONITORED, *OWN]
WANTED = Redirection(
    mode="redirect",
    uid=1337,
    gid=1337,
    exclude_inbound_ports=((EXCLUDED, EXCLUDED),),
    exclude_outbound_ports=((EXCLUDED, EXCLUDED),),
    opaque_inbound_ports=((OPAQUE, OPAQUE),),
    opaque_outbound_ports=((OPAQUE, OPAQUE),),
    exclude_outbound_cidrs=("10.78.0.0/24", "fd78::/64"),
)
Mode = Literal["redirect", "tproxy", "none"]
Place = Literal["pod", "peer", "elsewhere", "loopback"]
USERS = {"root": (0, 0), "an application": (1000, 1000)}
ENVOYS = {"Envoy's user": (1337, 1000), "Envoy's group": (1000, 1337), "Envoy as root": (0, 1337)}


@dataclass(frozen=True, slots=True)
class Row:
    """A connection to `to`:`port`, from the peer or from the pod, lands on the pod's `on`, or where it was going."""

    what: str
    source: Place
    to: Place
    port: int
    on: int | None = None


TABLE = (
    Row("a client of the application", "peer", "pod", APP, 15006),
    Row("a client of an opaque port", "peer", "pod", OPAQUE, 15007),
    Row("a client of an excluded port", "peer", "pod", EXCLUDED),
    *(Row(f"a client of Envoy's own {port}", "peer", "pod", port, 15006) for port in (*OWN, 15002)),
    *(Row(f"a monitor that asks {port}", "peer", "pod", port) for port in MONITORED),
    Row("the application to another host", "pod", "peer", APP, 15001),
    Row("the application to an opaque port", "pod", "peer", OPAQUE, 15003),
    Row("the application to an excluded port", "pod", "peer", EXCLUDED),
    Row("the application to an excluded network", "pod", "elsewhere", APP),
    Row("the application to itself", "pod", "pod", APP),
    Row("the application to loopback", "pod", "loopback", APP),
    *(Row(f"the application to {port} of another pod", "pod", "peer", port) for port in (*MONITORED, *OWN)),
)
MODES: list[tuple[Mode, Backend]] = [*product(("redirect", "tproxy"), ("nft", "legacy")), ("none", "nft")]  # type: ignore[list-item]


@pytest.fixture(scope="module", params=MODES, ids=lambda param: "-".join(param))
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mode, Network]]:
    """A pod with the rules of `WANTED`, listeners on every port that matters, and a peer with the same."""
    mode, backend = request.param
    with network(tmp_path_factory.mktemp("net")) as made:
        if mode != "none":
            applied = made.pod.redirect(replace(WANTED, mode=mode), backend)
            assert applied.returncode == 0, applied.stderr
        with (
            listeners(NetNs(made.pod.holder), "pod", PORTS, transparent=mode == "tproxy"),
            listeners(NetNs(made.peer.holder), "peer", PORTS),
        ):
            yield mode, made


families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
ADDRESSES = {"pod": POD, "peer": PEER, "elsewhere": PEER_ELSEWHERE, "loopback": LOOPBACK}


@families
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_a_connection_lands_where_it_should(net: tuple[Mode, Network], family: Family, row: Row) -> None:
    """From the pod: of whichever user. Envoy's own always goes where it was going, and in mode none all does."""
    mode, network = net
    source = NetNs((network.peer if row.source == "peer" else network.pod).holder)
    address = ADDRESSES[row.to][family]
    direct = Landing("pod" if row.to in ("pod", "loopback") else "peer", row.port, (address, row.port))
    redirected = direct if row.on is None or mode == "none" else Landing("pod", row.on, (address, row.port))
    users = dict.fromkeys(USERS.values(), redirected)
    if row.source == "pod":
        users |= dict.fromkeys(ENVOYS.values(), direct)
    landed = {(uid, gid): dial(source, address, row.port, uid=uid, gid=gid) for uid, gid in users}
    assert landed == users


@families
@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.source == "pod" and row.to != "pod"], ids=lambda row: row.what
)
def test_the_control_plane_explains_that_it_lands_there(row: Row, mode: str, family: Family) -> None:
    """But for the pod's own address, which no rule names."""
    annotations = {
        "exclude-outbound-ports": str(EXCLUDED),
        "opaque-outbound-ports": str(OPAQUE),
        "exclude-outbound-cidrs": ",".join(WANTED.exclude_outbound_cidrs),
    }
    pod = build.injected(build.pod(annotations), by=build.operator(f"sidecar: {{mode: {mode}}}"))
    explained = redirection.read(pod)
    assert explained is not None
    match explained.of(ADDRESSES[row.to][family], row.port):
        case Seen(opaque=opaque):
            assert row.on == (15003 if opaque else 15001)
        case Unseen():
            assert row.on is None


@families
def test_datagrams_are_not_redirected(net: tuple[Mode, Network], family: Family) -> None:
    """DNS among them: they arrive from the pod's own address, and so do the answers."""
    _, network = net
    kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    pod, peer = NetNs(network.pod.holder), NetNs(network.peer.holder)
    with (
        peer.call(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as server,
        pod.call(lambda: socket.socket(kind, socket.SOCK_DGRAM), uid=1000, gid=1000) as client,
    ):
        server.bind(("", DNS))
        for end in (server, client):
            end.settimeout(5)
        client.sendto(b"question", (PEER[family], DNS))
        question, asker = server.recvfrom(100)
        assert (question, asker[0]) == (b"question", POD[family])
        server.sendto(b"answer", asker)
        assert client.recv(100) == b"answer"


backends = pytest.mark.parametrize("backend", ["nft", "legacy"])


@backends
@families
def test_included_addresses_are_all_that_is_redirected(tmp_path: Path, family: Family, backend: Backend) -> None:
    wanted = Redirection(mode="redirect", uid=1337, gid=1337, include_outbound_cidrs=("10.78.0.0/24", "fd78::/64"))
    with network(tmp_path) as net:
        pod, peer = NetNs(net.pod.holder), NetNs(net.peer.holder)
        assert net.pod.redirect(wanted, backend).returncode == 0
        with listeners(pod, "pod", [15001]), listeners(peer, "peer", [APP]):
            assert dial(pod, PEER_ELSEWHERE[family], APP).port == 15001
            assert dial(pod, PEER[family], APP).host == "peer"


@backends
@families
def test_lists_of_128_entries_work(tmp_path: Path, family: Family, backend: Backend) -> None:
    """Each entry, the first and the last in a rule too, and none beside them."""
    ports = [20_000 + 3 * number for number in range(128)]
    networks = [f"10.78.{number}.0/24" for number in range(64)] + [f"fd78:{number:x}::/64" for number in range(64)]
    pairs = tuple((port, port) for port in ports)
    wanted = Redirection(
        mode="redirect",
        uid=1337,
        gid=1337,
        exclude_inbound_ports=pairs,
        opaque_outbound_ports=pairs,
        exclude_outbound_cidrs=tuple(networks),
    )
    with network(tmp_path) as net:
        pod, peer = NetNs(net.pod.holder), NetNs(net.peer.holder)
        assert net.pod.redirect(wanted, backend).returncode == 0
        beside = [port + 1 for port in ports]
        with listeners(pod, "pod", [*ports, 15001, 15003, 15006]), listeners(peer, "peer", [APP]):
            assert {dial(peer, POD[family], port).port for port in ports} == set(ports)
            assert {dial(peer, POD[family], port).port for port in beside} == {15006}
            assert {dial(pod, PEER[family], port).port for port in ports} == {15003}
            assert {dial(pod, PEER[family], port).port for port in beside} == {15001}
            assert dial(pod, PEER_ELSEWHERE[family], APP).host == "peer"
