"""In words: on which terms a Service is called, as `clusters` and `routes` make them of its policy."""

from collections.abc import Iterator

from controlplane.xds import routes
from controlplane.xds.clusters import balancing, ejected_at_most, is_asked
from controlplane.xds.listeners import CONNECT_ATTEMPTS
from controlplane.xds.mesh import Port, Service
from controlplane.xds.policies import changed
from controlplane.xds.policy import Policy
from controlplane.xds.values import show_duration


def of(service: Service, port: Port, method: str) -> Iterator[str]:
    """The sentences."""
    policy, tcp = service.policy, port.protocol == "tcp"
    if tcp:
        often = f"of up to {CONNECT_ATTEMPTS} attempts, each chosen anew"
        yield f"TCP: a connection goes to one of them, {often}, and stays there; no request is seen, and none repeated."
    else:
        yield _retries(policy, method)
        yield f"Timeout: {show_duration(policy.timeout) if policy.timeout else 'none'}."
    yield f"Balancing: {_balancing(service, tcp=tcp)}."
    yield f"Connections: {', '.join(_connections(policy, tcp=tcp))}."
    in_flight = "" if tcp else f"{policy.max_requests} requests in flight, "
    yield (
        f"Limits of this caller: {policy.max_connections} connections, {in_flight}"
        f"{policy.max_pending_requests} waiting."
    )
    yield _ejection(service, tcp=tcp)
    if is_asked(policy, port):
        yield f"Health: each is asked every {show_duration(policy.health_check_interval)}, {_health_check(policy)}"
    elif policy.health_check and not tcp:
        carries = "HTTP, and has no health of gRPC's" if port.protocol == "http" else "gRPC, which answers no GET"
        yield f"Health: none is asked, for the port carries {carries}."
    yield from _annotations(policy, port)


def _retries(policy: Policy, method: str) -> str:
    one = f" One attempt may take {show_duration(policy.retry_timeout)}." if policy.retry_timeout else ""
    if method == "CONNECT" or not policy.retries:
        return "It is never sent again."
    if not policy.repeats:
        return f"It is never sent again, for the budget allows no retry.{one}"
    often = f"up to {policy.retries} times, to another endpoint, {_budget(policy)}.{one}"
    if method in routes.IDEMPOTENT or policy.retry_methods == "all":
        return f"{method} may be repeated: it is sent again on {', '.join(policy.conditions)}, {often}"
    return f"{method} may not be repeated: it is sent again only where nobody had begun it, {often}"


def _budget(policy: Policy) -> str:
    if not policy.retry_budget:
        return f"with at most {policy.retry_minimum} retries at once"
    of = f"all requests of the last {show_duration(policy.retry_interval)}" if policy.retry_interval else ""
    least = f" (or {policy.retry_minimum} at once)" if policy.retry_minimum else ""
    return f"as long as retries are below {policy.retry_budget} % of {of or 'the requests in flight'}{least}"


def _balancing(service: Service, *, tcp: bool) -> str:
    policy, kind = service.policy, balancing(service)
    if policy.balancing is None and service.sticky:
        return "consistent-hash on the caller's address, since the Service's sessionAffinity is ClientIP"
    on, name = ("source-ip", "") if tcp else policy.hash_on
    match kind:
        case "consistent-hash":
            return f"{kind} on {on} {name}".rstrip()
        case "latency":
            return "round-robin, for TCP shows no answer that could be timed" if tcp else kind
        case _:
            warm_up = f"; a new endpoint gets less than its share for {show_duration(policy.warm_up)}"
            return f"{kind}{warm_up if policy.warm_up else ''}"


def _connections(policy: Policy, *, tcp: bool) -> Iterator[str]:
    yield f"one that does not come about within {show_duration(policy.connect_timeout)} has failed"
    if not tcp and policy.idle_timeout:
        yield f"an unused one is closed after {show_duration(policy.idle_timeout)}"
    if policy.tcp_keepalive:
        seconds = show_duration(policy.tcp_keepalive // 1000 * 1000)  # which is all that Linux counts
        yield f"after {seconds} of silence TCP asks whether the endpoint is there"


def _ejection(service: Service, *, tcp: bool) -> str:
    policy, percent = service.policy, ejected_at_most(service)
    if not policy.eject_after or not percent:
        return "An endpoint that fails is not left alone."
    connections = f"{policy.eject_after_connections} connections in a row"
    answers = f"answers {policy.eject_after} times in a row 502, 503 or 504, or refuses or breaks off {connections},"
    failing = f"refuses {connections}" if tcp else answers
    most = f"never more than {percent} % of them" if percent < 100 else "all of them, if need be"
    left = f"An endpoint that {failing} is left alone for {show_duration(policy.eject_for)}, longer each time; {most}."
    return f"{left} One beside a sidecar refuses none, whatever its application does." if tcp else left


def _health_check(policy: Policy) -> str:
    match policy.health_check:
        case "tcp":
            return "whether a connection comes about. Beside a sidecar, which accepts all, that never fails."
        case "grpc":
            return "by gRPC's health protocol."
        case path:
            return f"by GET {path}."


def _annotations(policy: Policy, port: Port) -> Iterator[str]:
    """Which of them decided, and which had done so at another port."""
    said = list(changed(policy))
    if said:
        yield "Annotations of the Service say so, and defaults the rest:"
    for row, text in said:
        why = row.in_vain(policy) if port.protocol == "tcp" else ""
        yield f'  {row.key}: "{text}"{f"  # does nothing at port {port.number}, TCP: {why}" if why else ""}'
