"""Services on a lab's node, as kube-proxy makes them: a ClusterIP whose connections go to one of the endpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.dataplane.lab import Lab, Pod
from tests.dataplane.network import Family

TOOLS: dict[Family, str] = {"ipv4": "iptables-nft-restore", "ipv6": "ip6tables-nft-restore"}


@dataclass(slots=True)
class Service:
    """A ClusterIP of both families; `port` is the Service's, `target` the pods'."""

    lab: Lab
    address: dict[Family, str]
    port: int
    target: int
    endpoints: list[Pod] = field(default_factory=list)

    def set(self, endpoints: Sequence[Pod]) -> None:
        """From now on new connections go to these; those that are open stay where they are."""
        self.endpoints = list(endpoints)
        for family, tool in TOOLS.items():
            self.lab.node.run(tool, stdin=self._rules(family))

    def _rules(self, family: Family) -> str:
        lines = ["*nat", ":PREROUTING ACCEPT", ":POSTROUTING ACCEPT"]
        match = f"-A PREROUTING -d {self.address[family]} -p tcp --dport {self.port}"
        for number, pod in enumerate(self.endpoints):
            share = f"-m statistic --mode nth --every {len(self.endpoints) - number} --packet 0"
            own = pod.address[family]
            target = f"{own}:{self.target}" if family == "ipv4" else f"[{own}]:{self.target}"
            lines.append(f"{match} {share} -j DNAT --to-destination {target}")
            lines.append(f"-A POSTROUTING -s {own} -d {own} -j MASQUERADE")
        return "\n".join([*lines, "COMMIT", ""])


def service(lab: Lab, endpoints: Sequence[Pod], *, number: int = 1, port: int = 80, target: int = 8080) -> Service:
    """A Service with these endpoints; one at a time on a node, since its rules are all that there are."""
    made = Service(lab, {"ipv4": f"10.96.0.{number}", "ipv6": f"fd96::{number}"}, port, target)
    made.set(endpoints)
    return made
