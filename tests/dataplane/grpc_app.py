"""`grpc_app.py serve PORT` is a gRPC server; `grpc_app.py call ADDRESS PORT` makes every kind of call to it and prints,
as JSON, all that its client sees. Programs of their own: gRPC opens its sockets in threads that a test cannot place."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

METADATA = (("x-caller", "web"), ("x-binary-bin", b"\x00\xff"), ("x-repeated", "1"), ("x-repeated", "2"))
STREAMED = 5
LARGE = 3 << 20


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers with what came, and the caller's metadata in its own."""
    received = [
        f"{key}={value!r}" for key, value in context.invocation_metadata() if key.startswith("x-") and key != PROTO
    ]
    context.send_initial_metadata((("x-received", "; ".join(received)),))
    context.set_trailing_metadata((("x-trailer", "last"), ("x-trailer-bin", b"\x01\xfe")))
    return request


def failing(_: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: \u00fcber")
    raise AssertionError


def slow(_: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers when its client has given up; the deadline has come with the call."""
    assert context.time_remaining() < 60
    while context.is_active():
        time.sleep(0.01)
    return b""


def echo(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers each piece before it reads the next."""
    for request in requests:
        yield request + b"!"


PROTO = "x-forwarded-proto"
METHODS = grpc.method_handlers_generic_handler(
    "Test",
    {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Failing": grpc.unary_unary_rpc_method_handler(failing),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    },
)


def serve(port: int) -> None:
    """Serves until the process is killed."""
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((METHODS,))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(target: str) -> dict[str, Any]:
    """What a client sees of every kind of call."""
    with grpc.insecure_channel(target) as channel:
        answer, made = channel.unary_unary("/Test/Unary").with_call(b"hello", metadata=METADATA, timeout=10)
        large = channel.unary_unary("/Test/Unary")(b"x" * LARGE, timeout=10)
        pieces: list[bytes] = []

        def requests() -> Iterator[bytes]:
            for number in range(STREAMED):
                while len(pieces) < number:
                    time.sleep(0.001)
                yield b"%d" % number

        for piece in channel.stream_stream("/Test/Echo")(requests(), timeout=10):
            pieces.append(piece)  # noqa: PERF402  the next request waits for it
        return {
            "unary": [answer.decode(), _shown(made.initial_metadata()), _shown(made.trailing_metadata())],
            "large": len(large),
            "streamed": [piece.decode() for piece in pieces],
            "failing": _failure(channel, "/Test/Failing", 10),
            "deadline": _failure(channel, "/Test/Slow", 0.5),
            "unknown": _failure(channel, "/Test/Absent", 10),
        }


def _failure(channel: grpc.Channel, method: str, timeout: float) -> list[Any]:
    try:
        channel.unary_unary(method)(b"", timeout=timeout)
    except grpc.RpcError as error:
        return [error.code().name, error.details(), _shown(error.trailing_metadata())]
    return []


def _shown(metadata: Any) -> list[str]:
    return [f"{key}={value!r}" for key, value in metadata or () if key not in ("date", "user-agent")]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(call(f"{sys.argv[2]}:{sys.argv[3]}")))
