"""`python grpc_replica_app.py PORT NAME` is one replica of a gRPC service: it answers with its name, and prints that.

It serves gRPC's health protocol, and is well until `/Replica/Ail` is called, and after `/Replica/Recover`. What it is
asked it answers in any case.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

WELL, AILING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse{status: SERVING}, and NOT_SERVING


class Replica:
    """One process."""

    def __init__(self, name: str) -> None:
        self._name, self._health = name, WELL

    def name(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        print("Name", flush=True)
        return self._name.encode()

    def ail(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self._health = AILING
        return b""

    def recover(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self._health = WELL
        return b""

    def check(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        return self._health


def serve(port: int, replica: Replica) -> None:
    """Serves until the process is killed."""
    own = {"Name": replica.name, "Ail": replica.ail, "Recover": replica.recover}
    services = {"Replica": own, "grpc.health.v1.Health": {"Check": replica.check}}
    server = grpc.server(ThreadPoolExecutor(4))
    for service, methods in services.items():
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Replica(sys.argv[2]))
