"""The headers by which one sidecar tells another something. None of them may reach an application, or come from one."""

# The ingress sidecar's own answer while the application was never reached: whatever was asked may be asked again. It
# names the address that was asked; the caller's sidecar makes `true` of its replica's, and `false` of any other.
UNPROCESSED = "x-mesh-unprocessed"
# A caller's sidecar asks the one beside a replica to say how long its application takes.
ASKS_LOAD = "x-mesh-asks-load"
# That, as ORCA's text format has it: what latency-aware balancing weighs by. Others use this header too, and where no
# sidecar has asked, it is the application's.
LOAD_REPORT = "endpoint-load-metrics"
