"""The admission webhook: a pod in, the same pod with its Envoy out. Holds no right in Kubernetes."""

__version__ = "0.1.0"
