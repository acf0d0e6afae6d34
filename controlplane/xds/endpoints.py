"""The endpoints of a Service's port, as a caller in some zone or on some node should use them."""

from collections.abc import Callable, Sequence
from itertools import groupby

from controlplane.extensions import Json
from controlplane.xds.mesh import Endpoint, Locality


def assignment(name: str, locality: Locality, variant: str, endpoints: Sequence[Endpoint]) -> Json:
    """EDS. Those to prefer have the first priority: Envoy goes to the others as far as the first are unhealthy."""
    return {
        "cluster_name": name,
        "endpoints": [
            {
                "locality": {"zone": zone} if zone else {},
                "priority": priority,
                "lb_endpoints": [_endpoint(one) for one in group],
            }
            for priority, chosen in enumerate(ranked(locality, variant, endpoints))
            for zone, group in _by_zone(chosen)
        ],
    }


def ranked(locality: Locality, variant: str, endpoints: Sequence[Endpoint]) -> list[Sequence[Endpoint]]:
    """The endpoints to use, in the order of preference; never an empty group.

    As kube-proxy has it, hints count only if every endpoint has one, and terminating ones are used if no other is left.
    """
    if locality == "node-only":
        ranks = [[one for one in endpoints if one.node == variant]]
    elif locality == "any" or not variant:
        ranks = [list(endpoints)]
    else:
        ready = _usable(endpoints)
        near = _near(locality, variant)
        ranks = [[one for one in ready if near(one)], [one for one in ready if not near(one)]]
        ranks = ranks if are_hinted(endpoints) else [ready]
    return [usable for rank in ranks if (usable := _usable(rank))]


def are_hinted(endpoints: Sequence[Endpoint]) -> bool:
    """Whether hints count, of those that would get requests."""
    return all(one.zones or one.nodes for one in _usable(endpoints))


def _near(locality: Locality, variant: str) -> Callable[[Endpoint], bool]:
    return (lambda one: variant in one.zones) if locality == "zone" else (lambda one: variant in one.nodes)


def _usable(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    return [one for one in endpoints if one.ready] or list(endpoints)


def _by_zone(endpoints: Sequence[Endpoint]) -> list[tuple[str, list[Endpoint]]]:
    ordered = sorted(endpoints, key=lambda one: (one.zone, one.address, one.port))
    return [(zone, list(group)) for zone, group in groupby(ordered, key=lambda one: one.zone)]


def _endpoint(one: Endpoint) -> Json:
    return {"endpoint": {"address": {"socket_address": {"address": one.address, "port_value": one.port}}}}
