"""What containers ask for, by the rules of the API server and of the scheduler."""

from collections.abc import Iterable

from webhook.pod import Container, Resources
from webhook.values import ZERO, Quantity, parse_quantity


def amount(resources: Resources | None, kind: str, resource: str) -> Quantity | None:
    """`resources.<kind>.<resource>`, or None where it is absent or unreadable (the API server refuses those)."""
    amounts = getattr(resources, kind, None) or {}
    try:
        return parse_quantity(str(amounts[resource]))
    except (KeyError, ValueError):
        return None


def total_request(init_containers: Iterable[Container], containers: Iterable[Container], resource: str) -> Quantity:
    """What these ask for together, by the scheduler's rule.

    KEP-753: the larger of all containers with all native sidecars, and each init container with the native
    sidecars that started before it.
    """
    sidecars, peak = ZERO, ZERO
    for container in init_containers:
        asked = request(container, resource)
        if container.restart_policy == "Always":
            sidecars += asked
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + asked)
    return max(peak, sum((request(container, resource) for container in containers), sidecars))


def request(container: Container, resource: str) -> Quantity:
    """The container's request, or its limit, which the API server takes for one, or nothing."""
    return amount(container.resources, "requests", resource) or amount(container.resources, "limits", resource) or ZERO
