"""Builders of a cluster's objects as JSON, and what the control plane makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from controlplane.extensions import Json
from controlplane.xds.mesh import Endpoint, Key, Mesh, Port
from controlplane.xds.snapshot import Caller
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import What, World

PREFIX = "envoy-sidecar.io/"
WEB = Caller("shop", "web-1")


def service(
    name: str = "orders",
    namespace: str = "shop",
    annotations: Mapping[str, str] | None = None,
    ports: Sequence[int | Json] = (80,),
    **spec: Any,
) -> Json:
    """A Service; annotations without a slash get our prefix, a port that is a number is all there is of it."""
    ours = {key if "/" in key else PREFIX + key: value for key, value in (annotations or {}).items()}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, **({"annotations": ours} if ours else {})},
        "spec": {
            "clusterIP": "10.96.0.10",
            "ports": [{"port": port} if isinstance(port, int) else port for port in ports],
            **spec,
        },
    }


def endpoint(address: str = "10.0.0.1", *, ready: bool | None = True, **fields: Any) -> Json:
    return {"addresses": [address], "conditions": {"ready": ready}, **fields}


def terminating(address: str, *, serving: bool = True) -> Json:
    conditions = {"ready": False, "serving": serving, "terminating": True}
    return {"addresses": [address], "conditions": conditions}


def slice_of(
    name: str = "orders",
    endpoints: Sequence[str | Json] = ("10.0.0.1",),
    namespace: str = "shop",
    ports: Sequence[Json] = ({"port": 8080},),
    suffix: str = "a",
    family: str = "IPv4",
) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "endpoints": [endpoint(one) if isinstance(one, str) else one for one in endpoints],
        "ports": list(ports),
    }


def pod(name: str, upstreams: str, namespace: str = "shop") -> Json:
    """The metadata of an injected pod."""
    metadata = {"name": name, "namespace": namespace, "annotations": {f"{PREFIX}upstreams": upstreams}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def node(name: str, zone: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
    }


def world(*objects: Json) -> World:
    made = World()
    for one in objects:
        made.put(cast("What", one["kind"]), one)
    return made


def mesh(*objects: Json) -> Mesh:
    return world(*objects).mesh()


def translated(*objects: Json, choices: Choices | None = None) -> Translated:
    return Translated(mesh(*objects), choices or Choices())


def addresses(of: Mesh, name: str = "orders", port: str = "", namespace: str = "shop") -> list[str]:
    """Those of the endpoints of a Service's port."""
    return [one.address for one in endpoints_of(of, name, port, namespace)]


def endpoints_of(of: Mesh, name: str = "orders", port: str = "", namespace: str = "shop") -> tuple[Endpoint, ...]:
    """The endpoints of a Service's port of that name; none if there is no such Service."""
    found = of.service(Key(namespace, name))
    return of.endpoints_of(found, Port(1, port)) if found else ()
