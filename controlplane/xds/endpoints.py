"""The endpoints of a Service's port, as a caller in some zone or on some node should use them."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from controlplane.extensions import Json
from controlplane.xds.mesh import Endpoint, Locality

Nearness = Literal["node", "zone", "anywhere"]  # of the caller


def assignment(name: str, locality: Locality, node: str, zone: str, endpoints: Sequence[Endpoint]) -> Json:
    """EDS. Those to prefer have the first priority: Envoy goes to the others as far as the first are unhealthy."""
    return {
        "cluster_name": name,
        "endpoints": [
            {
                "locality": {"zone": place} if place else {},
                "priority": priority,
                "lb_endpoints": [_endpoint(one) for one in group],
            }
            for priority, (_, chosen) in enumerate(ranked(locality, node, zone, endpoints))
            for place, group in _by_zone(chosen)
        ],
    }


def ranked(
    locality: Locality, node: str, zone: str, endpoints: Sequence[Endpoint]
) -> list[tuple[Nearness, list[Endpoint]]]:
    """The endpoints to use of a caller there, in the order of preference; never an empty group.

    As kube-proxy has it, hints count only if every endpoint has one, those for zones where none is for the node, and
    terminating ones are used if no other is left.
    """
    if locality == "node-only":
        ranks: dict[Nearness, list[Endpoint]] = {"node": _usable([one for one in endpoints if one.node == node])}
    else:
        ready = _usable(endpoints)
        for_nodes, for_zones = hints(locality, ready)
        ranks = {"node": [], "zone": [], "anywhere": []}
        for one in ready:
            is_on_node, is_in_zone = for_nodes and node in one.nodes, for_zones and zone in one.zones
            ranks["node" if is_on_node else "zone" if is_in_zone else "anywhere"].append(one)
    return [(nearness, found) for nearness, found in ranks.items() if found]


def hints(locality: Locality, endpoints: Sequence[Endpoint]) -> tuple[bool, bool]:
    """Whether those for nodes count, and those for zones, of endpoints that would get requests."""
    ready = _usable(endpoints)
    of_nodes = locality == "node" and all(one.nodes for one in ready)
    return of_nodes, locality in ("node", "zone") and all(one.zones for one in ready)


def _usable(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    return [one for one in endpoints if one.ready] or list(endpoints)


def _by_zone(endpoints: Sequence[Endpoint]) -> list[tuple[str, list[Endpoint]]]:
    ordered = sorted(endpoints, key=lambda one: (one.zone, one.address, one.port))
    return [(zone, list(group)) for zone, group in groupby(ordered, key=lambda one: one.zone)]


def _endpoint(one: Endpoint) -> Json:
    return {"endpoint": {"address": {"socket_address": {"address": one.address, "port_value": one.port}}}}
