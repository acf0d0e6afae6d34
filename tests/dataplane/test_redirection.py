"""Where a connection lands once the rules are in place, proved with real packets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.network import LOOPBACK, PEER, PEER_ELSEWHERE, POD, Family, Network, network
from webhook.redirect import Redirection

pytestmark = pytest.mark.dataplane

APP, EXCLUDED, OPAQUE = 8080, 9000, 9092
ENVOY = [15001, 15003, 15006, 15007, 15020, 15021, 15090]
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


@pytest.fixture(scope="module", params=["nft", "legacy"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A pod with the rules of `WANTED`, listeners on every port that matters, and a peer with the same."""
    with network(tmp_path_factory.mktemp("net")) as made:
        applied = made.pod.redirect(WANTED, request.param)
        assert applied.returncode == 0, applied.stderr
        ports = [APP, EXCLUDED, OPAQUE, *ENVOY]
        with made.pod.listening("pod", ports), made.peer.listening("peer", ports):
            yield made


families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


def landed(name: str, port: int, address: str, dialled: int) -> dict[str, Any]:
    return {"name": name, "port": port, "original": f"{address} {dialled}"}


@families
@pytest.mark.parametrize(
    ("dialled", "lands"),
    [
        pytest.param(APP, 15006, id="the application"),
        pytest.param(OPAQUE, 15007, id="an opaque port"),
        pytest.param(EXCLUDED, EXCLUDED, id="an excluded port"),
        *(pytest.param(port, 15006, id=f"Envoy's own {port}") for port in (15001, 15002, 15003, 15006, 15007)),
        *(pytest.param(port, port, id=f"for monitors {port}") for port in (15020, 15021, 15090)),
    ],
)
def test_inbound(net: Network, family: Family, dialled: int, lands: int) -> None:
    assert net.peer.dial(POD[family], dialled) == landed("pod", lands, POD[family], dialled)


@families
@pytest.mark.parametrize("user", [0, 1000], ids=["root", "an ordinary user"])
def test_what_the_application_sends_goes_to_envoy(net: Network, family: Family, user: int) -> None:
    sent = net.pod.dial(PEER[family], APP, uid=user, gid=user)
    assert sent == landed("pod", 15001, PEER[family], APP)


@families
def test_what_the_application_sends_to_an_opaque_port_goes_to_the_opaque_listener(net: Network, family: Family) -> None:
    assert net.pod.dial(PEER[family], OPAQUE) == landed("pod", 15003, PEER[family], OPAQUE)


@families
@pytest.mark.parametrize(("uid", "gid"), [(1337, 1000), (1000, 1337), (0, 1337)], ids=["uid", "gid", "root's gid"])
def test_what_envoy_sends_is_not_redirected(net: Network, family: Family, uid: int, gid: int) -> None:
    assert net.pod.dial(PEER[family], APP, uid=uid, gid=gid)["name"] == "peer"


@families
def test_what_the_pod_sends_to_itself_is_not_redirected(net: Network, family: Family) -> None:
    for address in (LOOPBACK[family], POD[family]):
        assert net.pod.dial(address, APP, uid=1000, gid=1000)["port"] == APP


@families
@pytest.mark.parametrize("port", [EXCLUDED, *ENVOY])
def test_excluded_ports_and_the_mesh_ports_of_other_pods_are_not_redirected(
    net: Network, family: Family, port: int
) -> None:
    assert net.pod.dial(PEER[family], port)["name"] == "peer"


@families
def test_excluded_addresses_are_not_redirected(net: Network, family: Family) -> None:
    assert net.pod.dial(PEER_ELSEWHERE[family], APP)["name"] == "peer"


@families
def test_included_addresses_are_all_that_is_redirected(tmp_path: Path, family: Family) -> None:
    wanted = Redirection(mode="redirect", uid=1337, gid=1337, include_outbound_cidrs=("10.78.0.0/24", "fd78::/64"))
    with network(tmp_path) as net, net.pod.listening("pod", [15001]), net.peer.listening("peer", [APP]):
        net.pod.redirect(wanted, "nft")
        assert net.pod.dial(PEER_ELSEWHERE[family], APP) == landed("pod", 15001, PEER_ELSEWHERE[family], APP)
        assert net.pod.dial(PEER[family], APP)["name"] == "peer"
