"""python -m tests.bench.plane SERVICES USED DIR: the discovery server with a cluster of that many Services.

Each namespace holds as many as a proxy uses, less one: that one, `shared/popular`, all proxies use. Commands come by
standard input and are answered by lines of JSON: `change`, other endpoints of it; `roll`, other ones of all Services,
one after the other, as rolling updates bring them; `alter`, another policy of a Service that one namespace sees;
`stats`; `endpoints`, those of each Service; `dump`, all that proxies are told, to DIR/world.json.
"""

import json
import os
import resource
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from prometheus_client import CollectorRegistry

from controlplane.extensions import Json
from controlplane.xds.identity import Identity, believe
from controlplane.xds.metrics import PREFIX, Metrics
from controlplane.xds.service import Discovery, Place
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import World
from tests.cluster import endpoint, service, slice_of, terminating

POPULAR = ("popular", "shared")  # name, namespace
ALTERED = 20  # times


class Plane:
    """The server, and the cluster that it tells of."""

    def __init__(self, services: int, used: int, tls: Path) -> None:
        self.names = [(f"s{number % (used - 1)}", f"ns{number // (used - 1)}") for number in range(services - 1)]
        self.used, self.addresses, self.tls = used, 0, tls
        self.callers = self._caller  # one object: nobody becomes another
        self.world, self.registry = World(), CollectorRegistry()
        self.replicas: dict[tuple[str, str], list[str]] = {}  # their addresses
        for name, namespace in (*self.names, POPULAR):
            self.world.put("Service", service(name, namespace))
            self._move(name, namespace)
        self.discovery = Discovery(Place(address="127.0.0.1:0", tls=tls, review=believe), Metrics(self.registry))
        self.discovery.start()
        self._publish()

    def change(self) -> dict[str, float]:
        """When the server was told."""
        self._move(*POPULAR)
        now = monotonic()
        self._publish()
        return {"at": now}

    def roll(self) -> dict[str, float]:
        """What a push costs while one Service after the other is rolled out. Bytes, and CPU in ms.

        A push is of one Service, as it was when both its endpoints changed in one step; but now the world changes more
        often than anything is pushed, for no proxy is told of a replica that is not ready, and that is in the CPU.
        """
        before, start = self.stats(), monotonic()
        for name, namespace in (*self.names, POPULAR):
            for endpoints in self._rolled(self.replicas[name, namespace]):
                self.world.put("EndpointSlice", slice_of(name, endpoints, namespace))
                self._publish()
                sleep(0.002)
        after = self.stats()
        pushes = after["responses"] - before["responses"]
        return {
            "seconds": monotonic() - start,
            "pushes": pushes,
            "cpu_ms": 1000 * (after["cpu"] - before["cpu"]) / max(pushes, 1),
            "bytes": (after["bytes"] - before["bytes"]) / max(pushes, 1),
        }

    def _rolled(self, replicas: list[str]) -> Iterator[list[str | Json]]:
        """The endpoints of a Deployment's rolling update, step by step: maxSurge 1, maxUnavailable 0."""
        for old in [*replicas]:
            new = self._address()
            replicas.remove(old)
            yield [*replicas, old, endpoint(new, ready=False)]
            yield [*replicas, old, new]
            yield [*replicas, new, terminating(old)]
            yield [*replicas, new]
            replicas.append(new)

    def endpoints(self) -> list[str]:
        """The name and the endpoints of each Service."""
        return [" ".join((f"{where}/{name}:80", *sorted(own))) for (name, where), own in self.replicas.items()]

    def alter(self) -> dict[str, float]:
        """The CPU for each time, in ms."""
        name, namespace = self.names[0]
        before = self.stats()["cpu"]
        for number in range(ALTERED):
            annotations = {"timeout": f"{number + 1}s"}
            self.world.put("Service", service(name, namespace, annotations=annotations))
            self._publish()
            sleep(0.05)
        return {"cpu_ms": 1000 * (self.stats()["cpu"] - before) / ALTERED}

    def dump(self) -> dict[str, float]:
        """For another server of the same: Anys by namespace and type, and what the popular Service changes to."""
        snapshot = self._next(None, self.world.mesh())
        namespaces = {namespace for _, namespace in self.names}
        changes = [self._resource(snapshot, Kind.ENDPOINTS, "shared/popular:80")]
        self._move(*POPULAR)
        changes.insert(0, self._resource(snapshot.next(self.world.mesh()), Kind.ENDPOINTS, "shared/popular:80"))
        told = {namespace: self._told(snapshot, namespace) for namespace in sorted(namespaces)}
        (self.tls / "world.json").write_text(json.dumps({"Namespaces": told, "Changes": changes}))
        return {}

    def _told(self, snapshot: Translated, namespace: str) -> dict[str, list[str]]:
        caller = self._caller(Identity(namespace, "any"))
        names = {kind: list(snapshot.names(kind, caller)) for kind in (Kind.CLUSTER, Kind.LISTENER)}
        names[Kind.ENDPOINTS] = names[Kind.CLUSTER]
        names[Kind.ROUTES] = [name.replace("out_", "http_") for name in names[Kind.LISTENER]]
        return {
            kind: [self._resource(snapshot, kind, snapshot.meant(kind, name, caller)) for name in some]
            for kind, some in names.items()
        }

    def _resource(self, snapshot: Translated, kind: Kind, name: str) -> str:
        found = snapshot.get(kind, name)
        assert found is not None
        return b64encode(found.body).decode()

    def stats(self) -> dict[str, float]:
        """CPU in seconds, memory in MiB."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu": used.ru_utime + used.ru_stime,
            "peak": used.ru_maxrss / 1024,
            "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
            "streams": self._counted("streams"),
            "responses": sum(self._counted("responses_total", type=kind.name.lower()) for kind in Kind),
            "bytes": sum(self._counted("sent_bytes_total", type=kind.name.lower()) for kind in Kind),
        }

    def _counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0

    def _move(self, name: str, namespace: str) -> None:
        """At once, as if both replicas were deleted."""
        self.replicas[name, namespace] = [self._address(), self._address()]
        self.world.put("EndpointSlice", slice_of(name, self.replicas[name, namespace], namespace))

    def _address(self) -> str:
        """Another one."""
        self.addresses += 1
        return str(IPv4Address("10.0.0.0") + self.addresses)

    def _publish(self) -> None:
        mesh = self.world.mesh()
        self.discovery.publish(lambda former: (self._next(former, mesh), self.callers))

    def _next(self, former: Any, mesh: Any) -> Translated:
        return former.next(mesh) if isinstance(former, Translated) else Translated(mesh, Choices())

    def _caller(self, identity: Identity) -> Caller:
        own = tuple(f"s{number}" for number in range(self.used - 1))
        return Caller(identity.namespace, identity.pod, upstreams=(*own, ".".join(POPULAR)))


def _answers(plane: Plane) -> Iterator[dict[str, float] | list[str]]:
    yield {"port": plane.discovery.port}
    commands: dict[str, Callable[[], dict[str, float] | list[str]]]
    commands = {"change": plane.change, "roll": plane.roll, "alter": plane.alter, "dump": plane.dump}
    commands |= {"stats": plane.stats, "endpoints": plane.endpoints}
    for line in sys.stdin:
        yield commands[line.strip()]()


if __name__ == "__main__":
    for answer in _answers(Plane(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))):
        print(json.dumps(answer), flush=True)
    os._exit(0)  # its streams need not be ended one by one
