"""`otlp_app.py PORT` is a collector of traces: it receives OTLP over gRPC and prints each span as a line of JSON.

`otlp_app.py PORT DIRECTORY` receives it by TLS, with `tls.crt` and `tls.key` of that directory.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


def export(sent: bytes, _: grpc.ServicerContext) -> bytes:
    """Prints what came; the answer is an empty message."""
    request = trace_service_pb2.ExportTraceServiceRequest.FromString(sent)  # type: ignore[attr-defined]
    for group in request.resource_spans:
        resource = {each.key: each.value.string_value for each in group.resource.attributes}
        # `scope_spans`, by the name it has in the messages that xds-protos brings.
        for span in (span for scope in group.instrumentation_library_spans for span in scope.spans):
            ids = {"trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex()}
            print(json.dumps({**ids, "name": span.name, "resource": resource}), flush=True)
    return b""


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    port, *directory = sys.argv[1:]
    if directory:
        key, chain = (Path(directory[0], name).read_bytes() for name in ("tls.key", "tls.crt"))
        server.add_secure_port(f"[::]:{port}", grpc.ssl_server_credentials([(key, chain)]))
    else:
        server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()
