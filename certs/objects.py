"""Which objects of the cluster are ours to keep, under which names. Values only."""

from dataclasses import dataclass
from typing import Literal

NAMESPACE = "envoy-sidecar-system"
OPT_IN = ("envoy-sidecar.io/inject", "enabled")  # the label that the registrations select namespaces by
SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")  # never injected, whatever their labels

CONFIG_MAP = "envoy-sidecar-ca"
CONFIG_MAP_KEY = "ca.crt"
LABELS = {"app.kubernetes.io/part-of": "envoy-sidecar-injector"}
CERTIFICATE, KEY = "tls.crt", "tls.key"

Kind = Literal["Secret", "ConfigMap", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]


@dataclass(frozen=True, slots=True)
class Target:
    """One object; `namespace` is empty where its kind has none."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


CONFIGURATIONS = (
    Target("MutatingWebhookConfiguration", "", "envoy-sidecar-webhook"),
    Target("ValidatingWebhookConfiguration", "", "envoy-sidecar-advisor"),
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the servers run, which decides the names that they are asked for."""

    namespace: str = NAMESPACE
    cluster_domain: str = "cluster.local"

    @property
    def authority(self) -> Target:
        """Holds the CA and its key; no pod mounts it."""
        return Target("Secret", self.namespace, "envoy-sidecar-ca-key")

    @property
    def leaves(self) -> dict[Target, tuple[str, ...]]:
        """What each server mounts, and the names that it is asked for."""
        return {
            Target("Secret", self.namespace, f"{service}-tls"): self._names(service)
            for service in ("envoy-sidecar-webhook", "envoy-sidecar-controlplane")
        }

    def config_map(self, namespace: str) -> Target:
        """Where a namespace's pods find the CAs."""
        return Target("ConfigMap", namespace, CONFIG_MAP)

    def _names(self, service: str) -> tuple[str, ...]:
        short = f"{service}.{self.namespace}"
        return (f"{short}.svc", short, f"{short}.svc.{self.cluster_domain}")
