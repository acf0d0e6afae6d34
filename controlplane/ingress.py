"""What the ingress sidecar tells a caller's about its application: that it was never reached, and how long it takes.

Both are headers, which end at the caller's sidecar (controlplane/headers.py). Who is no sidecar gets the first with a
503 of Envoy's own, and the second only if he asks for it.
"""

from controlplane.extensions import Json, config, extension
from controlplane.headers import ASKS_LOAD, LOAD_REPORT, UNPROCESSED

_LOAD = "load-report"

# Why Envoy answers itself: no connection came about, memory is short, or the application refused the stream, as it does
# over HTTP/2 with those that it will not begin, also after GOAWAY (RFC 9113, section 8.7). None of these comes once
# something was begun, as UC, UR, UPE and UT may, and nobody asks twice from in here. What else Envoy refuses, others
# would refuse too.
_NEVER_BEGUN: Json = {
    "or_filter": {
        "filters": [
            {"response_flag_filter": {"flags": ["UF", "OM"]}},
            {
                "extension_filter": extension(
                    "envoy.access_loggers.extension_filters.cel",
                    "access_loggers.filters.cel.v3.ExpressionFilter",
                    expression=(
                        "response.code_details == 'upstream_reset_before_response_started{remote_refused_stream_reset}'"
                    ),
                )
            },
        ]
    }
}

# The value is the address that was asked: whoever gets this by way of another application asked at another one.
LOCAL_REPLIES: Json = {
    "mappers": [
        {
            "filter": _NEVER_BEGUN,
            "headers_to_add": [
                {
                    "header": {"key": UNPROCESSED, "value": "%DOWNSTREAM_LOCAL_ADDRESS%"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        }
    ]
}


def measured(route: Json) -> Json:
    """The same route for a caller's sidecar that asks how long the application takes; others do without the cost.

    From the request's last byte to the answer's first, in microseconds: what a caller waits, without his own slowness.
    """
    return {
        "match": {"prefix": "/", "headers": [{"name": ASKS_LOAD, "present_match": True}]},
        "route": route,
        "response_headers_to_add": [
            {
                "header": {"key": LOAD_REPORT, "value": "%COMMON_DURATION(DS_RX_END:US_RX_BEG:us)%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "typed_per_filter_config": {_LOAD: config("envoy.config.route.v3.FilterConfig", config={})},
    }


# How long answers took lately: a mean in which one from TAU ago counts 1/e of one from now, of each port and in each of
# Envoy's threads. What fails takes no time, and is no measure: by its status, or gRPC's, which is in the head where
# there is nothing else. Nor is an answer that begins before the end of its request.
#
# A caller's weight is the inverse of what is reported, to the power of 1.5: who takes ten times as long gets 1/32, and
# so adds little to what all wait. More, or a shorter memory, and replicas near their limits are flooded by turns. It is
# a whole number below 2^32: here from 1, for 100 s, to a billion, for 100 us.
REPORT: Json = {
    **extension(
        _LOAD,
        "filters.http.lua.v3.Lua",
        clear_route_cache=False,
        default_source_code={
            "inline_string": f"""local TAU = 5000 -- milliseconds, as all that follow
local means, times = {{}}, {{}}
function envoy_on_response(answer)
  local headers = answer:headers()
  local took = tonumber(headers:get("{LOAD_REPORT}"))
  local port = answer:streamInfo():downstreamLocalAddress()
  local mean = means[port]
  if took and headers:get(":status") < "500" and not headers:get("grpc-status") then
    local now = answer:timestamp()
    took = math.min(math.max(took / 1000, 0.1), 100000)
    if mean then
      mean = mean + (took - mean) * (1 - math.exp(math.min(times[port] - now, 0) / TAU))
    else
      mean = took
    end
    means[port], times[port] = mean, now
  end
  if mean then
    local load = string.format("TEXT application_utilization=%.4f,rps_fractional=32000000", mean ^ 1.5)
    headers:replace("{LOAD_REPORT}", load)
  else
    headers:remove("{LOAD_REPORT}")
  end
end
"""
        },
    ),
    "disabled": True,
}
