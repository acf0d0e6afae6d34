"""How Envoy's JSON names an extension: by the type of its configuration; the name is for people. What several share."""

from typing import Any

Json = dict[str, Any]

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"  # of a cluster: key, and type of the value
# A client's maximum is 1.2 unless it is said.
TLS_VERSIONS: Json = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


def config(message: str, **fields: Any) -> Json:
    """The message of that full name in an `Any`, as protobuf's JSON mapping writes it."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


def extension(name: str, message: str, **fields: Any) -> Json:
    """The extension `name`; `message` is the type of its configuration, below `envoy.extensions`."""
    return {"name": name, "typed_config": config(f"envoy.extensions.{message}", **fields)}


# HTTP/1 keeps the case of header names, in both directions, and what stands after a status.
PRESERVE_CASE: Json = {
    "stateful_formatter": extension(
        "preserve_case",
        "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        forward_reason_phrase=True,
    )
}
