"""Whatever happens to a cluster, and whenever its proxy connects anew: in the end the proxy has what a control plane
that has just started would tell it.

The proxy asks as Envoy does: for the endpoints of the clusters, and the routes of the listeners, that it has.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from controlplane.extensions import Json
from controlplane.xds.cache import Cache
from controlplane.xds.identity import Identity
from controlplane.xds.mesh import Key
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.stream import PATIENCE_SECONDS
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.world import World
from controlplane.xds.worlds import Directory
from tests.cluster import endpoint, node, pod, service, slice_of
from tests.worlds import Proxy

CDS, EDS, LDS, RDS = Kind
NAMED_BY = {EDS: CDS, RDS: LDS}  # a proxy asks for the former by what it has of the latter
NAMES = ("a", "b", "c")
TCP = {"port": 5432, "name": "tcp-x"}
PORTS: list[Sequence[int | Json]] = [[80], [80, TCP], [TCP], [81], [{"port": 80, "appProtocol": "tcp"}]]
SPECS: list[dict[str, Any]] = [
    {},
    {"trafficDistribution": "PreferSameZone"},
    {"trafficDistribution": "PreferSameNode"},
    {"internalTrafficPolicy": "Local"},
    {"clusterIP": "None"},
    {"type": "ExternalName", "clusterIP": None},
]

names, namespaces = st.sampled_from(NAMES), st.sampled_from(["shop", "accounts"])


def at(number: int) -> Json:
    """An endpoint on one of two nodes, for callers there."""
    where = {"forZones": [{"name": f"z{number % 2}"}], "forNodes": [{"name": f"n{number % 2}"}]}
    return endpoint(f"10.0.0.{number}", nodeName=f"n{number % 2}", zone=f"z{number % 2}", hints=where)


class Envoy:
    """The proxy of shop/web-0. It keeps what it has when it connects anew."""

    def __init__(self, cache: Cache, caller: Caller) -> None:
        self.cache, self.proxy = cache, Proxy(cache, caller=caller)
        self.called: set[str] = set()  # clusters that requests waited for
        self._asked: dict[Kind, set[str]] = {}
        self.connect()

    @property
    def holds(self) -> dict[Kind, dict[str, str]]:
        return self.proxy.holds

    def connect(self) -> None:
        former = self.proxy
        self.proxy = Proxy(self.cache, former.now, former.caller, holds=former.holds)
        self._asked = {}
        self.proxy.ask(CDS, *(["*", *sorted(self.called)] if self.called else []), has=self.holds[CDS])
        self.proxy.ask(LDS, has=self.holds[LDS])
        self.settle()

    def call(self, cluster: str) -> None:
        """A request waits for that cluster, unless it is there."""
        if cluster not in self.holds[CDS]:
            self.called.add(cluster)
            self.proxy.ask(CDS, cluster)
            self.settle()

    def settle(self) -> None:
        """Takes all that comes, and asks for what that names."""
        while self.proxy.settle() or self._ask(EDS) or self._ask(RDS):
            pass

    def _ask(self, kind: Kind) -> bool:
        wanted = {name.replace("out6_", "http_").replace("out_", "http_") for name in self.holds[NAMED_BY[kind]]}
        former = self._asked.get(kind)
        if wanted == (former or set()):
            return False
        gone = set(self.holds[kind]) - wanted
        for name in gone:
            del self.holds[kind][name]
        new = sorted(wanted - (former or set()))
        has = {name: version for name, version in self.holds[kind].items() if former is None and name in wanted}
        self.proxy.ask(kind, *new, without=sorted((former or set()) - wanted), has=has)
        self._asked[kind] = wanted
        return True


class Clusters(RuleBasedStateMachine):
    """One proxy, and everything that decides what it is told."""

    @initialize(scope=st.sampled_from(["namespace", "cluster"]), on_demand=st.booleans())
    def start(self, scope: Any, on_demand: bool) -> None:
        self.world, self.choices = World(), Choices(Scope(default=scope), on_demand=on_demand)
        self.snapshot, self.cache = Translated(self.world.mesh(), self.choices), Cache()
        self.cache.store(self.snapshot)
        self.envoy = Envoy(self.cache, self._caller())

    @rule(
        name=names,
        namespace=namespaces,
        spec=st.sampled_from(SPECS),
        ports=st.sampled_from(PORTS),
        ip=st.integers(1, 2),
    )
    def put_service(
        self, name: str, namespace: str, spec: dict[str, Any], ports: Sequence[int | Json], ip: int
    ) -> None:
        address = {"clusterIP": f"10.96.{NAMES.index(name)}.{ip}"}
        self.world.put("Service", service(name, namespace, ports=ports, **{**address, **spec}))

    @rule(name=names, namespace=namespaces)
    def remove_service(self, name: str, namespace: str) -> None:
        self.world.remove("Service", Key(namespace, name))

    @rule(name=names, namespace=namespaces, numbers=st.sets(st.integers(1, 3)))
    def put_endpoints(self, name: str, namespace: str, numbers: set[int]) -> None:
        ports: list[Json] = [{"port": 8080}, {"port": 8081, "name": "tcp-x"}]
        self.world.put("EndpointSlice", slice_of(name, [at(one) for one in sorted(numbers)], namespace, ports))

    @rule(zone=st.sampled_from(["z0", "z1", ""]))
    def put_node(self, zone: str) -> None:
        self.world.put("Node", node("n0", zone))

    @rule()
    def remove_node(self) -> None:
        self.world.remove("Node", Key("default", "n0"))

    @rule(upstreams=st.sampled_from(["", "a", "a,b.accounts"]))
    def declare(self, upstreams: str) -> None:
        self.world.put("Pod", pod("web-0", upstreams))

    @rule(whole=st.booleans())
    def tell(self, whole: bool) -> None:
        """All that happened; or of endpoints alone, which is never waited for."""
        mesh = self.world.mesh() if whole else self.world.mesh(self.world.touched, rest=False)
        former, self.snapshot = self.snapshot, self.snapshot.next(mesh)
        list(self.snapshot.follow(former))
        self.cache.store(self.snapshot)
        self.envoy.proxy.caller = self._caller()  # whoever looks now, for what differs, sees the new one
        self.envoy.settle()
        self.envoy.proxy.become(self._caller())
        self.envoy.settle()

    @rule(name=names, namespace=namespaces)
    def call(self, name: str, namespace: str) -> None:
        self.envoy.call(f"{namespace}/{name}:80")

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.envoy.proxy.now += seconds
        self.envoy.settle()

    @rule(missed=st.integers(0, 2))
    def reconnect(self, missed: int) -> None:
        """After nobody was connected for so many looks at who is."""
        self.envoy.proxy.conversation.end()
        for _ in range(missed):
            self.cache.retain([])
        self.envoy.connect()

    @rule()
    def retain(self) -> None:
        self.cache.retain([self.envoy.proxy.caller])

    def teardown(self) -> None:
        if not hasattr(self, "envoy"):
            return
        self.tell(whole=True)
        for _ in range(5):
            self.wait(PATIENCE_SECONDS)
        fresh, caller = Translated(self.world.mesh(), self.choices), self._caller()
        for kind in (CDS, LDS):
            asked = self.envoy.called if kind is CDS else set()
            there = {name: _version(fresh, kind, name, caller) for name in {*fresh.names(kind, caller), *asked}}
            there = {name: version for name, version in there.items() if version}
            gone = self._left(fresh, caller) if kind is LDS else set()
            left = {name: _version(fresh, kind, name, caller) for name in gone}
            assert self.envoy.holds[kind] == left | there
        for kind, by in NAMED_BY.items():
            for name in self.envoy.holds[by]:
                wanted = name if kind is EDS else f"http_{name.partition('_')[2]}"
                assert self.envoy.holds[kind].get(wanted) == _version(fresh, kind, wanted, caller)

    def _left(self, fresh: Translated, caller: Caller) -> set[str]:
        """Listeners of ports without a Service, which let all pass."""
        return self.envoy.holds[LDS].keys() - set(fresh.names(LDS, caller))

    def _caller(self) -> Caller:
        return Directory(self.snapshot.mesh)(Identity("shop", "web-0", node="n0"))


def _version(of: Translated, kind: Kind, name: str, caller: Caller) -> str | None:
    called = of.meant(kind, name, caller)
    of.views.of(caller)
    found = of.get(kind, called) or of.remains(kind, called)
    return found.version if found else None


TestClusters = Clusters.TestCase
TestClusters.settings = settings(max_examples=300, stateful_step_count=40)
