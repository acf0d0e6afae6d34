"""How a Service wants to be called. The defaults never repeat what may not be repeated."""

from dataclasses import dataclass

from controlplane.xds.values import Balancing, HashOn, PortProtocol, RetryMethods


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Times are milliseconds; 0 of a time is none, 0 of a count is never."""

    retries: int = 2
    retry_on: tuple[str, ...] | None = None  # None: as `conditions` says
    retry_methods: RetryMethods = "idempotent"
    retry_timeout: int = 0
    retry_budget: int = 20  # percent of the requests in flight; with an interval, of all that were in that time
    retry_interval: int = 0
    # Retries at once that the budget allows in any case. Where no replica works, five callers at once then send 1.8
    # requests for each of theirs; with 4 here it was 2.4, with 5 the full 3.
    retry_minimum: int = 3
    timeout: int = 0
    connect_timeout: int = 1000
    idle_timeout: int = 55_000  # below the minute after which many servers close
    tcp_keepalive: int = 60_000
    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 4096
    eject_after: int = 5
    eject_for: int = 10_000
    eject_percent: int | None = None  # None: as `clusters.ejected_at_most` says
    balancing: Balancing | None = None  # None: least-request, or as the Service's session affinity asks
    hash_on: HashOn = ("source-ip", "")
    warm_up: int = 0
    health_check: str = ""  # `tcp`, `grpc`, or a path
    health_check_interval: int = 5000
    protocols: tuple[tuple[int, PortProtocol], ...] = ()  # by port; 0 is every other port

    @property
    def conditions(self) -> tuple[str, ...]:
        """When a request is sent again that may be repeated.

        gRPC says in a header of its own, of an answer 200, that a replica cannot serve, or gives up a call because it
        ends. All its calls are POSTs, so that counts only where those may be repeated, and the author chose nothing.
        """
        if self.retry_on is not None:
            return self.retry_on
        of_grpc = ("unavailable", "cancelled") if self.retry_methods == "all" else ()
        return ("gateway-error", "reset", "connect-failure", "refused-stream", *of_grpc)

    @property
    def eject_after_connections(self) -> int:
        """Failed connections in a row: a replica that is gone shows sooner than one that answers badly."""
        return min(self.eject_after, 3)

    @property
    def repeats(self) -> bool:
        """Whether anything is ever sent again: a budget of nothing allows nothing."""
        return bool(self.retries and (self.retry_budget or self.retry_minimum))


DEFAULT = Policy()
