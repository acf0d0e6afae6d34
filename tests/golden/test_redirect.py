"""The iptables rules for each kind of redirection, whole, as the init container gets them."""

import pytest

from tests.goldens import check_golden
from webhook.redirect import Redirection, render

CASES = {
    "redirect": Redirection(mode="redirect", uid=1337, gid=1337),
    "tproxy": Redirection(mode="tproxy", uid=1337, gid=1337, opaque_inbound_ports=((9092, 9092),)),
    "redirect-everything-set": Redirection(
        mode="redirect",
        uid=2000,
        gid=3000,
        exclude_inbound_ports=((8081, 8081), (9000, 9010)),
        exclude_outbound_ports=tuple((port, port + 1) for port in range(6000, 6040, 4)),
        opaque_inbound_ports=((9092, 9092),),
        opaque_outbound_ports=((25, 25), (3306, 3306)),
        exclude_outbound_cidrs=("169.254.169.254/32", "fd00:ec2::254/128"),
        include_outbound_cidrs=("10.0.0.0/8", "fd00::/8"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rules(name: str) -> None:
    rules = render(CASES[name])
    check_golden(f"redirect/{name}.ipv4", rules.ipv4)
    check_golden(f"redirect/{name}.ipv6", rules.ipv6)
