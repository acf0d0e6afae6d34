"""The alerts, in Prometheus' own rule engine."""
