"""gRPC's server: its port, its limits, and one method of raw bytes."""

import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import uniform
from typing import Any

import grpc

from controlplane.xds.credentials import Credentials

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

Serve = Callable[[object, Any], Awaitable[None]]  # requests, which it reads from the context; grpc.aio.ServicerContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one replica takes. Times in seconds."""

    streams: int = 6_000  # of 120 KiB, in the 1 GiB that manifests/base/controlplane allows
    request_bytes: int = 4 << 20
    connection_age: float = 1800.0
    handshake: float = 10.0  # for who connects and says nothing; gRPC's default is 2 minutes

    @property
    def connections(self) -> int:
        """Also those that have no stream, of 45 to 55 KB, which end soon."""
        return self.streams * 5 // 4 + 16


def bind(serve: Serve, address: str, credentials: Credentials | None, limits: Limits) -> tuple[grpc.aio.Server, int]:
    """A server that has taken its port, and the port. Raises OSError."""
    server = grpc.aio.server(options=_options(limits), maximum_concurrent_rpcs=limits.connections)
    server.add_generic_rpc_handlers((_Handler(serve),))
    try:
        if credentials is None:
            port: int = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials.server())
    except RuntimeError as error:
        raise OSError(f"{address}: {error}") from None
    return server, port


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine, or pod, can reach it."""
    host = address.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or address.startswith("unix:")


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # the package says no types
    """One method, of bytes."""

    def __init__(self, serve: Serve) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(serve, None, None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handler if handler_call_details.method == METHOD else None


def _options(limits: Limits) -> list[tuple[str, int]]:
    """gRPC's channel arguments (grpc/impl/channel_arg_names.h). What is pending at its defaults is cut off at 2,000."""
    return [
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.tsi.max_frame_size", 4 << 10),  # a buffer of that size for each connection; the default takes 22 KB more
        ("grpc.max_concurrent_streams", 8),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake * 1000)),
        ("grpc.server.max_pending_requests", limits.streams),
        ("grpc.server.max_pending_requests_hard_limit", 2 * limits.streams),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # Envoy pings an idle connection every 30 s
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_connection_idle_ms", 10_000),  # without a stream; Envoy asks for another within 5 s
        ("grpc.max_connection_age_ms", int(limits.connection_age * 1000 * uniform(0.9, 1))),  # noqa: S311  no secret
        ("grpc.max_connection_age_grace_ms", 1_000),
    ]
