"""Redirection and Envoy with real packets, between network namespaces."""
