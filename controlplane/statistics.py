"""What Envoy counts: only what somebody reads. At thousands of Services the rest costs memory, and seconds a scrape."""

from controlplane.extensions import Json

_ALL_OF = (
    "cluster_manager.",
    "control_plane.",
    "http.explicit.",
    "http.inbound.",
    "http.outbound.",
    "listener.",
    "listener_manager.",
    "overload.",
    "runtime.",
    "server.",
    "tcp.",
)
# Of a cluster: Envoy has five times as many, which all exist whether they are used or not.
_OF_A_CLUSTER = (
    r"circuit_breakers\.default\.((cx|rq|rq_pending)_open|remaining_(cx|pending|rq))",
    r"health_check\.(failure|success)",
    r"lb_healthy_panic",
    r"membership_(healthy|total)",
    r"outlier_detection\.ejections_(active|enforced_total)",
    r"ssl\.(connection_error|fail_.*|handshake|versions\..*)",
    r"upstream_cx_(active|connect_fail|connect_timeout|destroy_remote_with_active_rq|overflow|total)",
    r"upstream_cx_[rt]x_bytes_total",
    r"upstream_rq_([1-5]xx|active|completed|pending_active|per_try_timeout|time|timeout|total)",
    r"upstream_rq_(active|pending)_overflow",
    r"upstream_rq_retry(_limit_exceeded|_overflow|_success)?",
)

CONFIG: Json = {
    "stats_matcher": {
        "inclusion_list": {
            "patterns": [
                *({"prefix": prefix} for prefix in _ALL_OF),
                {"safe_regex": {"regex": rf"cluster\.[^.]+\.({'|'.join(_OF_A_CLUSTER)})"}},
            ]
        }
    },
    "histogram_bucket_settings": [
        {
            "match": {"safe_regex": {"regex": ".*(upstream_rq_time|downstream_rq_time)"}},
            "buckets": [1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000],
        }
    ],
}
