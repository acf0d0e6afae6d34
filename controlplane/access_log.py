"""The access log: one JSON object per line on stdout. Two runtime keys say what is logged, so that a pod can
choose without a bootstrap of its own."""

from typing import Literal

from controlplane.extensions import Json, extension

AccessLog = Literal["off", "errors", "all"]

ERRORS = "envoy_sidecar.access_log.errors"  # percent of the failures that are logged
ALL = "envoy_sidecar.access_log.all"  # percent of everything

_CONNECTION = {
    "time": "%START_TIME%",
    "pod": "%ENVIRONMENT(POD_NAME)%",
    "namespace": "%ENVIRONMENT(POD_NAMESPACE)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}
_TCP = {**_CONNECTION, "server_name": "%REQUESTED_SERVER_NAME%", "termination": "%CONNECTION_TERMINATION_DETAILS%"}
_HTTP = {
    **_CONNECTION,
    "method": "%REQUEST_HEADER(:METHOD)%",
    "path": "%REQUEST_HEADER(:PATH)%",
    "authority": "%REQUEST_HEADER(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQUEST_HEADER(X-REQUEST-ID)%",
}

FIELDS = ("direction", *{**_TCP, **_HTTP})


def percentages(choice: AccessLog) -> dict[str, int]:
    """The runtime values that make `choice` take effect."""
    return {ERRORS: 0 if choice == "off" else 100, ALL: 100 if choice == "all" else 0}


def http(direction: str) -> list[Json]:
    """The log of an HTTP connection manager; a failure is a status of 500 or more, or a response flag."""
    status = {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": _MIN}}}}
    return [_log(direction, _HTTP, {"or_filter": {"filters": [status, _FLAGGED]}})]


def tcp(direction: str) -> list[Json]:
    """The log of a TCP proxy; a failure is a response flag."""
    return [_log(direction, _TCP, _FLAGGED)]


_MIN = "envoy_sidecar.access_log.min_status"
_FLAGGED: Json = {"response_flag_filter": {}}


def _log(direction: str, fields: dict[str, str], failed: Json) -> Json:
    failures = {"and_filter": {"filters": [_sample(ERRORS), failed]}}
    return {
        **extension(
            "stdout",
            "access_loggers.stream.v3.StdoutAccessLog",
            log_format={"json_format": {"direction": direction, **fields}, "omit_empty_values": True},
        ),
        "filter": {"or_filter": {"filters": [_sample(ALL), failures]}},
    }


def _sample(key: str) -> Json:
    return {"runtime_filter": {"runtime_key": key, "percent_sampled": {"numerator": 0, "denominator": "HUNDRED"}}}
