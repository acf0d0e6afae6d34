"""The settings file's `controlplane:` section: what proxies are told. The webhook reads it as well, to check it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from controlplane.bounds import Matching

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

ServiceName = Annotated[str, Matching(rf"{_LABEL}(\.{_LABEL})?")]
Domain = Annotated[str, Matching(rf"{_LABEL}(\.{_LABEL}){{0,8}}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """The one setting of the section `sidecar:` that the control plane reads, as the webhook does."""

    # Services: `orders` is of the pod's own namespace, `users.accounts` of the namespace accounts.
    upstreams: tuple[ServiceName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """What depends on the operator."""

    # What the proxy of a pod is told that declares no upstreams: its namespace's Services, those of the setting
    # `sidecar.upstreams`, or all there are.
    scope: Literal["namespace", "list", "cluster"] = "namespace"
    # Whether such a proxy is told of how to reach a Service when it is first called, and not before.
    on_demand: bool = False
    # The domain that Kubernetes' DNS serves.
    cluster_domain: Domain = "cluster.local"
