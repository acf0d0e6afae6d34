"""Traces: spans of the requests that pass, sent to a collector by OTLP over gRPC. Off unless the operator names one.

Then Envoy continues a caller's W3C trace context, or begins one; without a collector it leaves all of them alone.
"""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from controlplane.bounds import SYSTEM, Between, CAs, HostPort
from controlplane.extensions import HTTP_OPTIONS, TLS_VERSIONS, Json, config, extension

CLUSTER = "tracing"
SYSTEM_CAS = "/etc/ssl/certs/ca-certificates.crt"  # in the distroless image as in the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """The settings' `bootstrap.tracing`."""

    # Where spans go: `otel-collector.observability:4317`. OTLP over gRPC.
    collector: HostPort = ""
    # Whose certificate, for its host, the collector must show: PEM, or `system` for those in the Envoy image. Without
    # one, spans go without TLS.
    ca: CAs = ""
    # How many of the requests that come without a trace context begin a trace.
    percent: Annotated[float, Between(0, 100)] = 1.0


def manager_options(tracing: Tracing) -> Json:
    """What makes an HTTP connection manager trace; nothing, without a collector."""
    if not tracing.collector:
        return {}
    provider = {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": config(
            "envoy.config.trace.v3.OpenTelemetryConfig",
            grpc_service={"envoy_grpc": {"cluster_name": CLUSTER}, "timeout": "5s"},
            sampler=_sampler(tracing.percent),
            # OTEL_RESOURCE_ATTRIBUTES of the sidecar names its service and its pod.
            resource_detectors=[
                extension(
                    "envoy.tracers.opentelemetry.resource_detectors.environment",
                    "tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig",
                )
            ],
        ),
    }
    # Ids of requests come from applications; whether one is traced is not written into them.
    unchanged = extension("uuid", "request_id.uuid.v3.UuidRequestIdConfig", pack_trace_reason=False)
    return {
        "tracing": {"provider": provider},
        "generate_request_id": True,
        "request_id_extension": {"typed_config": unchanged["typed_config"]},
    }


def _sampler(percent: float) -> Json:
    """Who begins a trace decides whether it is sampled. Envoy's own share of requests would overrule a caller."""
    samplers = "tracers.opentelemetry.samplers.v3"
    share = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    begun = extension(
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        f"{samplers}.TraceIdRatioBasedSamplerConfig",
        sampling_percentage=share,
    )
    return extension(
        "envoy.tracers.opentelemetry.samplers.parent_based",
        f"{samplers}.ParentBasedSamplerConfig",
        wrapped_sampler=begun,
    )


def clusters(tracing: Tracing, *, dual: bool) -> list[Json]:
    """The collector's cluster, if there is one."""
    if not tracing.collector:
        return []
    host, _, port = tracing.collector.rpartition(":")
    address = {"socket_address": {"address": host, "port_value": int(port)}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return [
        {
            "name": CLUSTER,
            "connect_timeout": "1s",
            "cluster_type": {
                "name": "envoy.cluster.dns",
                "typed_config": config(
                    "envoy.extensions.clusters.dns.v3.DnsCluster", dns_lookup_family="ALL" if dual else "V4_ONLY"
                ),
            },
            "load_assignment": {"cluster_name": CLUSTER, "endpoints": endpoints},
            "typed_extension_protocol_options": {
                HTTP_OPTIONS: config(HTTP_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
            },
            **({"transport_socket": _tls(host, tracing.ca)} if tracing.ca else {}),
        }
    ]


def _tls(host: str, ca: str) -> Json:
    named = _is_name(host)
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        **({"sni": host} if named else {}),  # RFC 6066: never an address
        common_tls_context={
            "tls_params": TLS_VERSIONS,
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": {"filename": SYSTEM_CAS} if ca == SYSTEM else {"inline_string": ca},
                "match_typed_subject_alt_names": [
                    {"san_type": "DNS" if named else "IP_ADDRESS", "matcher": {"exact": host}}
                ],
            },
        },
    )


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
