"""The sidecar's ports. iptables rules, probes, monitors and network policies name them: they never change."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the sidecar listens, and where the control plane does."""

    outbound: int = 15001
    explicit: int = 15002  # loopback only: the proxy that an application in mode none is pointed at
    opaque_outbound: int = 15003
    inbound: int = 15006
    opaque_inbound: int = 15007
    probes: int = 15020
    ready: int = 15021
    metrics: int = 15090
    xds: int = 15012

    @property
    def redirecting(self) -> tuple[int, ...]:
        """The listeners that iptables sends traffic to. One that proxied to another would do so for ever."""
        return self.outbound, self.opaque_outbound, self.inbound, self.opaque_inbound


PORTS = Ports()
MARK = 0x539  # on packets that mode tproxy routes to the pod itself, whatever their address
