"""The headers by which one sidecar tells another something. None of them may reach an application, or come from one."""

# The ingress sidecar's own answer while the application was never reached: whatever was asked may be asked again.
UNPROCESSED = "x-mesh-unprocessed"
# How busy a replica is, as ORCA's text format has it: what latency-aware balancing weighs by.
LOAD_REPORT = "endpoint-load-metrics"
