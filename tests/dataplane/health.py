"""gRPC's health protocol: `python health.py PORT` is an application that serves it, with the well-known library;
`check` asks as the kubelet does, by hand, since the library opens its connections in threads of its own.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.connection
import h2.events

SERVICE, METHOD = "grpc.health.v1.Health", "Check"
SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


def serve(port: int, service: str) -> None:
    """Says that `service`, and no other, is serving, until the process is killed."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request != _request(service):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return SERVING

    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def check(address: str, port: int, service: str, seconds: float) -> bool:
    """Whether the service there says in time that it is serving."""
    try:
        return call(address, port, f"/{SERVICE}/{METHOD}", _request(service), seconds) == SERVING
    except OSError:
        return False


def call(address: str, port: int, path: str, message: bytes = b"", seconds: float = 10) -> bytes | None:
    """What comes back of a unary call, over a connection of its own; None unless it succeeds. Raises OSError."""
    with socket.create_connection((address, port), timeout=seconds) as connection:
        frame = _ask(connection, f"{address}:{port}", path, _frame(message))
    return frame[5:] if frame else None


def _ask(connection: socket.socket, authority: str, path: str, message: bytes) -> bytes:
    """The message that comes back, framed, or nothing unless the call succeeds."""
    http = h2.connection.H2Connection()
    http.initiate_connection()
    head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": authority}
    http.send_headers(1, [*head.items(), ("content-type", "application/grpc"), ("te", "trailers")])
    http.send_data(1, message, end_stream=True)
    answer, status = b"", b""
    connection.sendall(http.data_to_send())
    while came := connection.recv(65536):
        for event in http.receive_data(came):
            match event:
                case h2.events.DataReceived():
                    answer += event.data
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    status = dict(event.headers).get(b"grpc-status", status)
                case h2.events.StreamEnded():
                    return answer if status == b"0" else b""
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    return b""
                case _:
                    pass
        connection.sendall(http.data_to_send())
    return b""


def _request(service: str) -> bytes:
    """HealthCheckRequest{service}."""
    return bytes([0x0A, len(service)]) + service.encode() if service else b""


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
