"""The Service `orders` in a test's hand: what there is of it, as its caller's proxy has it, and what a caller gets."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from controlplane import offline
from controlplane.extensions import Json
from controlplane.xds.snapshot import Caller, Kind
from tests import cluster
from tests.apiserver.processes import eventually
from tests.cluster import slice_of
from tests.dataplane.lab import Lab, Pod, application, manifest
from tests.dataplane.told import CLUSTER_IP, ControlPlane, admin, ask, told

NODE = "node-1"  # the caller's, by its token


@contextmanager
def caller(place: Lab, pods: Sequence[Pod], folder: Path) -> Iterator[tuple[Pod, ControlPlane]]:
    """A pod that can reach these, and whose control plane serves; of nothing, as yet."""
    pod, plane = told(
        place, manifest("web", application("echo.py", "8080"), annotations={"access-log": "errors"}), folder
    )
    plane.say()
    with plane.serving():
        pod.kubelet.start()
        pod.kubelet.wait_until_ready()
        for one in pods:  # the first packet to an address may take a second
            pod.call(partial(ask, one.address["ipv4"], 8080, "/"))
        yield pod, plane


class Orders:
    """What a test may do: say what there is, and call it."""

    def __init__(self, caller: Pod, plane: ControlPlane, pods: Sequence[Pod]) -> None:
        self.caller, self.plane, self.pods = caller, plane, pods
        self.ips = [pod.address["ipv4"] for pod in pods]

    def are(self, slices: Sequence[Json] = (), spec: Json | None = None, **annotations: str) -> None:
        """From now on the Service is this one, of all replicas unless it is said otherwise; and the caller knows."""
        named = {name.replace("_", "-"): text for name, text in annotations.items()}
        there = cluster.service("orders", annotations=named, **{"clusterIP": CLUSTER_IP, **(spec or {})})
        self.say(there, *(slices or [slice_of("orders", self.ips)]))

    def say(self, *objects: Json, zone: str = "") -> None:
        """The cluster is this, and the caller's proxy uses all of it, as somebody of that zone should."""
        self.plane.say(*objects)
        expected = _expected(objects, zone)
        eventually(lambda: expected.are_in_effect(self.caller), "it is in effect")

    def behave(self, status: int = 200, milliseconds: float = 0, pods: Sequence[Pod] | None = None) -> None:
        for pod in self.pods if pods is None else pods:
            pod.call(lambda: ask("127.0.0.1", 8080, f"/behave/{status}/{milliseconds}"))

    def call(
        self, method: str = "GET", path: str = "/", address: str = CLUSTER_IP, port: int = 80, host: str = "orders"
    ) -> tuple[int, str]:
        return self.caller.call(lambda: ask(address, port, path, method, host))

    def answers(self, count: int = 30, **how: str | int) -> Counter[str]:
        """Who answered; the status, where nobody did."""
        came = [self.call(**how) for _ in range(count)]  # type: ignore[arg-type]
        return Counter(body if status == 200 else str(status) for status, body in came)

    def stat(self, name: str) -> int:
        """A number of the caller's Envoy, about orders."""
        return stat(self.caller, f"cluster.shop/orders_80.{name}")


def stat(pod: Pod, name: str) -> int:
    """A number of its Envoy; 0 of what it has not counted yet."""
    lines = (line.rpartition(": ") for line in admin(pod, "/stats").splitlines())
    return next((int(value) for key, _, value in lines if key == name), 0)


def requests(pods: Sequence[Pod], path: str) -> int:
    """How many requests for that path the replicas have seen, by their own logs."""
    return sum(line.endswith(f" {path}") for pod in pods for line in pod.log("app").splitlines())


@dataclass(frozen=True, slots=True)
class _Expected:
    """Versions of clusters and routes; addresses with their priorities; and of each listener, the chains' filters.

    Envoy shows no new version of a listener of which only the chains are new.
    """

    versions: set[str]
    endpoints: set[tuple[str, int]]
    chains: set[tuple[str, ...]]

    def are_in_effect(self, pod: Pod) -> bool:
        """Whether the pod's proxy has it all."""
        dump = json.loads(admin(pod, "/config_dump") or "{}")
        for one in dump.get("configs", ()):
            one.pop("dynamic_warming_clusters", None)  # as long as their health is not known, the former are in use
        listeners = {_chains(one) for one in _all(dump, "listener")}
        return (
            self.versions <= set(_all(dump, "version_info"))
            and self.endpoints == _endpoints(pod)
            and self.chains <= listeners
        )


def _expected(objects: Sequence[Json], zone: str) -> _Expected:
    """What such a caller is told."""
    caller, snapshot = Caller("shop", "web", node=NODE, zone=zone), cluster.translated(*objects)
    found = offline.told(snapshot, caller)
    groups = [group for one in found.pop(Kind.ENDPOINTS).values() for group in one["endpoints"]]
    chains = {_chains(one) for one in found.pop(Kind.LISTENER).values()}
    made = [snapshot.get(kind, snapshot.meant(kind, name, caller)) for kind, names in found.items() for name in names]
    endpoints = {(_address(lb["endpoint"]), group["priority"]) for group in groups for lb in group["lb_endpoints"]}
    return _Expected({one.version for one in made if one}, endpoints, chains)


def _chains(listener: Json) -> tuple[str, ...]:
    return (listener["name"], *(one["filters"][-1]["name"] for one in listener["filter_chains"]))


def _address(of: Json) -> str:
    socket = of["address"]["socket_address"]
    return f"{socket['address']}:{socket['port_value']}"


def _all(at: Any, key: str) -> Iterator[Any]:
    """Every value of that key, wherever it stands."""
    if isinstance(at, dict) and key in at:
        yield at[key]
    for one in at.values() if isinstance(at, dict) else at if isinstance(at, list) else ():
        yield from _all(one, key)


def _endpoints(pod: Pod) -> set[tuple[str, int]]:
    """Of all clusters that are told."""
    clusters = json.loads(admin(pod, "/clusters?format=json") or "{}").get("cluster_statuses", ())
    hosts = [host for one in clusters if one["name"].startswith("shop/") for host in one.get("host_statuses", ())]
    return {(_address(host), host.get("priority", 0)) for host in hosts}
