"""Versions, what differs between two snapshots, and that it does not matter how a cluster came to be as it is."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.extensions import Json
from controlplane.xds import messages
from controlplane.xds.cache import Cache
from controlplane.xds.scope import Scope
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.stream import PATIENCE_SECONDS
from controlplane.xds.translate import Choices
from controlplane.xds.translated import MOST_REMAINS, Translated
from controlplane.xds.world import WHAT, What, World, key_of
from tests.cluster import WEB, endpoint, mesh, node, service, slice_of, translated, world
from tests.worlds import Proxy

CALLERS = (
    WEB,
    Caller("accounts", "a-1", node="n1", zone="eu-1a"),
    Caller("shop", "web-2", node="n2", zone="eu-1b", upstreams=("b", "a.accounts")),
)
Told = dict[tuple[Kind, str], str]


def everything(of: Translated, *callers: Caller) -> Told:
    """All that these callers are told: versions by type and name. Asks for each, as their proxies would."""
    found: Told = {}
    for caller in callers or CALLERS:
        names = [(Kind.CLUSTER, name) for name in of.names(Kind.CLUSTER, caller)]
        names += [(Kind.ENDPOINTS, name) for _, name in names]
        for name in of.names(Kind.LISTENER, caller):
            names += [(Kind.LISTENER, name), (Kind.ROUTES, name.replace("out_", "http_").replace("out6_", "http_"))]
        names = [(kind, of.meant(kind, name, caller)) for kind, name in names]
        for kind, name in names:
            resource = of.get(kind, name)
            if resource is not None:
                found[kind, name] = resource.version
    return found


# Versions


def test_a_version_is_the_same_in_every_replica_and_after_a_restart() -> None:
    script = (
        "from tests.cluster import *; from tests.unit.test_snapshot import everything\n"
        "print(sorted(everything(translated(service(), slice_of(), service('b', ports=[80, 81])), WEB).values()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_version_says_nothing_of_the_order_in_which_slices_came() -> None:
    one, other = slice_of(), slice_of(endpoints=["10.0.0.2"], suffix="b")
    assert everything(translated(service(), one, other)) == everything(translated(service(), other, one))


def test_a_resource_that_stays_is_the_same_object() -> None:
    former = translated(service(), slice_of(), service("b"))
    everything(former)
    latter = former.next(mesh(service(), slice_of(endpoints=["10.0.0.2"]), service("b")))
    assert latter.get(Kind.CLUSTER, "shop/b:80") is former.get(Kind.CLUSTER, "shop/b:80")


# Differences


def test_an_endpoint_that_comes_changes_the_endpoints_and_nothing_else() -> None:
    there = world(service(), slice_of(), service("b"))
    former = Translated(there.mesh(), Choices())
    everything(former)
    there.put("EndpointSlice", slice_of(endpoints=["10.0.0.1", "10.0.0.2"]))
    assert list(former.next(there.mesh()).changed(former)) == [(Kind.ENDPOINTS, "shop/orders:80")]


def test_nothing_differs_between_equal_worlds() -> None:
    former = translated(service(), slice_of())
    everything(former)
    assert list(former.next(mesh(service(), slice_of())).changed(former)) == []


def test_what_somebody_asks_for_while_the_next_world_is_made_ready_differs_as_well() -> None:
    former = translated(service())
    latter = former.next(mesh(service(annotations={"connect-timeout": "2s"})))
    for _ in latter.follow(former):
        pass
    assert former.get(Kind.CLUSTER, "shop/orders:80")
    assert list(latter.changed(former)) == [(Kind.CLUSTER, "shop/orders:80")]


def test_what_was_looked_at_little_by_little_is_not_looked_at_again_in_one_go() -> None:
    """In the scope `cluster`, where each namespace has a listener with all Services."""
    services = [service(f"s{number}", f"ns{number % 20}") for number in range(400)]
    former = translated(*services, choices=Choices(scope=Scope(default="cluster")))
    for number in range(20):
        everything(former, Caller(f"ns{number}", "web-0"))
    latter = former.next(mesh(*services, service("new", "ns0")))
    start = thread_time()
    steps = sum(1 for _ in latter.follow(former))
    middle = thread_time()
    assert len(list(latter.changed(former))) > 20
    assert steps > 100
    assert thread_time() - middle < (middle - start) / 20


def test_a_name_that_was_asked_for_in_vain_is_told_when_it_comes() -> None:
    former = translated()
    assert former.get(Kind.ENDPOINTS, "shop/orders:80") is None
    assert (Kind.ENDPOINTS, "shop/orders:80") in set(former.next(mesh(service())).changed(former))


def test_a_service_that_goes_takes_its_names_along() -> None:
    former = translated(service(), slice_of())
    asked = set(everything(former))
    latter = former.next(mesh())
    assert asked <= set(latter.changed(former))
    assert all(latter.get(*name) is None for name in asked)


def test_a_set_of_names_that_stays_is_the_same_object() -> None:
    former = translated(service(), service("b"))
    names = former.names(Kind.CLUSTER, WEB)
    latter = former.next(mesh(service(annotations={"timeout": "1s"}), service("b")))
    assert latter.names(Kind.CLUSTER, WEB) is names


def test_what_nobody_asked_for_is_never_translated() -> None:
    former = translated(*(service(f"s{n}") for n in range(100)))
    former.get(Kind.CLUSTER, "shop/s7:80")
    latter = former.next(mesh(*(service(f"s{n}", annotations={"connect-timeout": "2s"}) for n in range(100))))
    assert list(latter.changed(former)) == [(Kind.CLUSTER, "shop/s7:80")]
    assert set(latter._made) == {(Kind.CLUSTER, "shop/s7:80")}


def declaring(number: int) -> Caller:
    """One of a namespace's many pods, each of which declares something else."""
    return Caller("evil", f"web-{number}", upstreams=(f"s{number}.shop", "orders.shop"))


def test_views_that_nobody_is_connected_for_are_forgotten() -> None:
    now = translated(service(), slice_of())
    callers = [declaring(number) for number in range(100)]
    told = everything(now, WEB, *callers)
    for _ in range(2):
        now = now.next(mesh(service(), slice_of(), service("other")))
        now.retain([WEB, callers[0]])
    everything(now, WEB)
    assert set(now.views._known) == {"shop", now.views.of(callers[0]).token}
    assert {kind for kind, name in now._made if now.views.of(callers[1]).token in name} == set()
    assert everything(now, callers[1]) == {
        (kind, name): version
        for (kind, name), version in told.items()
        if kind in (Kind.CLUSTER, Kind.ENDPOINTS) or now.views.of(callers[1]).token in name
    }


def test_a_view_is_kept_for_who_is_about_to_connect() -> None:
    now = translated(service(), slice_of())
    everything(now, WEB)
    now.retain([])
    assert set(now.views._known) == {"shop"}
    everything(now, WEB)
    now.retain([WEB])
    now.retain([])
    assert set(now.views._known) == {"shop"}


def test_what_is_gone_for_good_leaves_nothing_behind() -> None:
    of = translated(service(), slice_of())
    everything(of)
    for _ in range(3):
        of = of.next(mesh(service("b")))
    assert not [name for name in of._made if "orders" in name[1]]
    assert not [owner for owner in of._asked if "orders" in str(owner)]


def test_ports_that_a_service_had_leave_nothing_behind() -> None:
    former = Translated(mesh(), Choices())
    for number in range(100, 110):
        of = former.next(mesh(service(ports=[number]), slice_of()))
        list(of.changed(former))
        everything(former := of)
    names = {name for asked in of._asked.values() for _, name in asked} | {name for _, name in of._made}
    assert not [name for name in names if re.search(r"10[0-7]", name)]


EVERYWHERE = [
    service("local", internalTrafficPolicy="Local"),
    service("spread", trafficDistribution="PreferSameZone"),
    slice_of("local"),
    slice_of("spread"),
]


def test_places_where_nobody_is_any_more_leave_nothing_behind_though_their_services_stay() -> None:
    now = translated(*EVERYWHERE)
    for number in range(20):
        caller = Caller("shop", "web-1", node=f"n{number}", zone=f"eu-{number}")
        assert {name for _, name in everything(now, caller)} >= {
            f"shop/local:80@node-only=n{number}",
            f"shop/spread:80@zone=eu-{number}",
        }
        now.retain([caller])
    for _ in range(2):
        now = now.next(mesh(*EVERYWHERE, service("other")))
        now.retain([])
    known = {name for names in now._asked.values() for _, name in names} | {name for _, name in now._made}
    assert not [name for name in known if "=" in name]


@pytest.mark.parametrize("preferred", [{"internalTrafficPolicy": "Local"}, {"trafficDistribution": "PreferSameNode"}])
def test_who_is_on_a_node_is_told_of_its_endpoints_whatever_is_known_of_that_node(preferred: Json) -> None:
    """Nodes without a zone are usual, and a Node may be heard of later than its pods."""

    def at(address: str, *nodes: Json) -> Translated:
        there = endpoint(address, nodeName="n1", hints={"forNodes": [{"name": "n1"}]})
        return now.next(mesh(service(**preferred), slice_of(endpoints=[there]), *nodes))

    cache, now = Cache(), translated()
    cache.store(now := at("10.0.0.1"))
    proxy = located(cache, "n1", "")
    told = [proxy.holds[Kind.ENDPOINTS]["shop/orders:80"]]
    for number, nodes in enumerate(([node("n1", "")], [], [node("n2", "")], [node("n1", "")]), start=2):
        cache.store(now := at(f"10.0.0.{number}", *nodes))
        now.retain([proxy.caller])
        proxy.settle()
        told.append(proxy.holds[Kind.ENDPOINTS]["shop/orders:80"])
    assert len(set(told)) == 5


NEAR: Json = {"trafficDistribution": "PreferSameZone"}
PLACES = [node("n1", "eu-1a"), node("n2", "eu-1b")]
HINTED = slice_of(
    endpoints=[
        endpoint(f"10.0.0.{number}", zone=zone, hints={"forZones": [{"name": zone}]})
        for number, zone in enumerate(("eu-1a", "eu-1b"))
    ]
)


def located(cache: Cache, node: str, zone: str) -> Proxy:
    """One there, that asks for all that Envoy asks for."""
    proxy = Proxy(cache, caller=Caller("shop", "web-0", node=node, zone=zone))
    proxy.ask(Kind.CLUSTER)
    proxy.ask(Kind.ENDPOINTS, "shop/orders:80")
    proxy.ask(Kind.LISTENER)
    proxy.ask(Kind.ROUTES, "http_80")
    proxy.settle()
    return proxy


def test_a_service_that_comes_to_prefer_what_is_near_is_told_anew_but_for_its_listener() -> None:
    """Another one would end connections."""
    told: list[tuple[Kind, int, list[str]]] = [(kind, 1, []) for kind in Kind if kind is not Kind.LISTENER]
    cache = Cache()
    cache.store(former := translated(service(), HINTED, *PLACES))
    proxies = [located(cache, "n1", "eu-1a"), located(cache, "n2", "eu-1b")]
    for now in (service(**NEAR), service()):
        cache.store(former := former.next(mesh(now, HINTED, *PLACES)))
        for proxy in proxies:
            assert [(one.kind, len(one.resources), one.removed) for one in proxy.settle()] == told
    for proxy in proxies:
        proxy.conversation.end()
    assert not any(cache.subscriptions().values())


@pytest.mark.parametrize("kept", [NEAR, {"trafficDistribution": "PreferSameNode"}, {"internalTrafficPolicy": "Local"}])
def test_a_service_that_comes_back_is_told_to_who_still_has_its_cluster(kept: Json) -> None:
    """Meanwhile so much happened that nobody remembers by which names it was asked for."""
    cache = Cache()
    cache.store(former := translated(service(**kept), slice_of(), *PLACES))
    proxy = located(cache, "n1", "eu-1a")
    for number in range(3):
        cache.store(former := former.next(mesh(service("other", annotations={"retries": f"{number}"}), *PLACES)))
        proxy.settle()
    there = endpoint("10.0.0.9", nodeName="n1")
    cache.store(former.next(mesh(service(**kept), slice_of(endpoints=[there]), *PLACES)))
    assert Kind.ENDPOINTS in [response.kind for response in proxy.settle()]
    proxy.now += PATIENCE_SECONDS
    proxy.settle()
    assert proxy.holds == located(cache, "n1", "eu-1a").holds


def test_a_caller_that_turns_out_to_be_elsewhere_is_told_of_the_endpoints_there_and_nothing_else() -> None:
    cache = Cache()
    cache.store(translated(service(**NEAR), HINTED, *PLACES))
    proxy, there = located(cache, "n1", "eu-1a"), located(cache, "n2", "eu-1b")
    proxy.become(there.caller)
    assert [response.kind for response in proxy.settle()] == [Kind.ENDPOINTS]
    assert proxy.holds == there.holds


def test_a_caller_that_is_elsewhere_when_another_service_comes_is_told_of_the_endpoints_there() -> None:
    """Its clusters are looked at first, and find out where it is."""
    cache = Cache()
    cache.store(former := translated(service(**NEAR), HINTED, *PLACES))
    proxy = located(cache, "n1", "eu-1b")
    cache.store(former.next(mesh(service(**NEAR), HINTED, service("other"), *PLACES)))
    proxy.caller = replace(proxy.caller, zone="eu-1a")
    proxy.settle()
    proxy.become(proxy.caller)
    proxy.settle()
    assert proxy.holds == located(cache, "n1", "eu-1a").holds


def test_endpoints_that_change_in_one_zone_are_told_to_callers_there() -> None:
    cache = Cache()
    cache.store(former := translated(service(**NEAR), HINTED, *PLACES))
    proxies = [located(cache, "n1", "eu-1a"), located(cache, "", "")]
    gone = slice_of(endpoints=HINTED["endpoints"][:1])
    cache.store(former.next(mesh(service(**NEAR), gone, *PLACES)))
    assert [[response.kind for response in proxy.settle()] for proxy in proxies] == [[Kind.ENDPOINTS]] * 2


def test_the_last_service_of_a_port_leaves_the_listener_with_those_who_have_it() -> None:
    cache = Cache()
    cache.store(former := translated(service()))
    proxy, later = located(cache, "n1", ""), Proxy(cache)
    cache.store(former.next(mesh()))
    assert [(one.kind, one.removed) for one in proxy.settle()] == [(Kind.ROUTES, [])]
    later.ask(Kind.LISTENER)
    later.settle()
    assert (list(proxy.holds[Kind.LISTENER]), list(later.holds[Kind.LISTENER])) == (["out_80"], [])


@pytest.mark.parametrize("has", [{"http_80": "1"}, {}], ids=["with-routes", "that-waits-for-its-routes"])
def test_a_listener_from_another_control_plane_is_told_routes_and_of_a_service_that_comes(has: dict[str, str]) -> None:
    proxy = Proxy(cache := Cache())
    cache.store(former := translated())
    proxy.ask(Kind.LISTENER, has={"out_80": "1"})
    proxy.ask(Kind.ROUTES, "http_80", has=has)
    assert [(one.kind, one.removed) for one in proxy.settle()] == [(Kind.LISTENER, []), (Kind.ROUTES, [])]
    cache.store(former.next(mesh(service())))
    assert [one.kind for one in proxy.settle()] == [Kind.ROUTES]  # an HTTP port's listener is what remains of it


def test_what_remains_is_bounded_for_a_proxy_may_say_that_it_has_anything() -> None:
    proxy = Proxy(cache := Cache())
    cache.store(translated())
    proxy.ask(Kind.LISTENER, has={f"out_{port}": "1" for port in range(1, 1000)} | {"out_99999": "1", "x": "1"})
    (response,) = proxy.told()
    assert (len(response.resources), len(response.removed)) == (MOST_REMAINS, 1001 - MOST_REMAINS)


def test_what_remains_of_a_port_is_forgotten_when_it_has_a_service_again() -> None:
    """Or those of many ports that come and go would take the room of those that are gone."""
    cache, former = Cache(), translated()
    cache.store(former)
    proxy = Proxy(cache)
    proxy.ask(Kind.LISTENER)
    for first in (1000, 2000, 1000, 2000):
        ports = range(first, first + MOST_REMAINS)
        cache.store(former := former.next(mesh(service(ports=list(ports)))))
        proxy.settle()
    assert len(proxy.holds[Kind.LISTENER]) == 2 * MOST_REMAINS


# However it came about


NAMES = st.sampled_from(["a", "b", "c"])
NAMESPACES = st.sampled_from(["shop", "accounts"])
SPECS = st.fixed_dictionaries(
    {"clusterIP": st.sampled_from(["10.96.0.1", "10.96.0.2", "fd00::1", "None"])},
    optional={
        "trafficDistribution": st.just("PreferSameZone"),
        "internalTrafficPolicy": st.just("Local"),
        "sessionAffinity": st.just("ClientIP"),
    },
)
PORTS = st.lists(st.sampled_from([80, 81, 5432]), max_size=3)
ANNOTATIONS = st.dictionaries(st.sampled_from(["timeout", "retries", "protocol"]), st.sampled_from(["1s", "3", "tcp"]))
ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1"]), max_size=3, unique=True)


@st.composite
def events(draw: st.DrawFn) -> tuple[What, Json, bool]:
    """An object that is put, or removed."""
    what: What = draw(st.sampled_from(WHAT[:2] + WHAT[3:]))
    name, namespace = draw(NAMES), draw(NAMESPACES)
    match what:
        case "Service":
            raw = service(name, namespace, draw(ANNOTATIONS), draw(PORTS), **draw(SPECS))
        case "EndpointSlice":
            raw = slice_of(name, draw(ADDRESSES), namespace, suffix=draw(st.sampled_from("xy")))
        case _:
            raw = node(draw(st.sampled_from(["n1", "n2"])), draw(st.sampled_from(["eu-1a", "eu-1b"])))
    return what, raw, draw(st.booleans())


SCOPES = st.sampled_from([Scope(), Scope(default="cluster"), Scope(default="list", services=("a", "b.accounts"))])


def play(there: World, history: list[tuple[What, Json, bool]]) -> Iterator[None]:
    for what, raw, stays in history:
        if stays:
            there.put(what, raw)
        else:
            there.remove(what, key_of(raw))
        yield


@settings(deadline=None)
@given(st.lists(events(), max_size=12), SCOPES)
def test_a_cluster_that_came_step_by_step_is_told_as_one_that_was_listed(
    history: list[tuple[What, Json, bool]], scope: Scope
) -> None:
    choices, there = Choices(scope=scope), World()
    snapshot = Translated(there.mesh(), choices)
    for _ in play(there, history):
        snapshot = snapshot.next(there.mesh())
        everything(snapshot)
    last = {(what, key_of(raw)): (raw, stays) for what, raw, stays in history}
    listed = World()
    for (what, _), (raw, stays) in last.items():
        if stays:
            listed.put(what, raw)
    assert everything(snapshot) == everything(Translated(listed.mesh(), choices))


@settings(deadline=None)
@given(st.lists(events(), max_size=8), SCOPES, st.integers(0, 40))
def test_whoever_looks_at_what_changed_knows_everything(
    history: list[tuple[What, Json, bool]], scope: Scope, ahead: int
) -> None:
    there = World()
    snapshot = Translated(there.mesh(), Choices(scope=scope))
    known = everything(snapshot)
    for _ in play(there, history):
        former, snapshot = snapshot, snapshot.next(there.mesh())
        for step in islice(snapshot.follow(former), ahead):
            assert step is None
            everything(former)  # proxies are served meanwhile
        for kind, name in snapshot.changed(former):
            for one in [one for one in known if one == (kind, name) or one[1].startswith(f"{name}@")]:
                del known[one]  # a proxy looks at it again, wherever it is
        for caller in CALLERS:  # what a wildcard newly holds is asked for at once
            for new, version in everything(snapshot, caller).items():
                known.setdefault(new, version)
        told = everything(snapshot)
        assert {one: known[one] for one in told} == told
        assert snapshot.rejected == {}


class Busy:
    """Counts what is serialised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts, make = 0, messages.part

        def part(kind: Kind, text: str) -> bytes:
            self.parts += 1
            return make(kind, text)

        monkeypatch.setattr(messages, "part", part)


def test_what_was_prepared_for_a_proxy_is_there_when_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    of, busy = translated(service(), slice_of(), service("b")), Busy(monkeypatch)
    assert len(list(of.prepare(WEB))) > busy.parts > 0
    parts = busy.parts
    assert everything(of, WEB)
    assert busy.parts == parts
    assert list(of.prepare(WEB)) == []


def test_what_changed_was_made_before_anyone_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    former = translated(service(), slice_of(), service("b"))
    everything(former)
    latter, busy = (
        former.next(mesh(service(annotations={"timeout": "7s"}), slice_of(), service("b"))),
        Busy(monkeypatch),
    )
    assert len(list(latter.follow(former))) > busy.parts > 0
    parts = busy.parts
    assert set(latter.changed(former))
    assert everything(latter)
    assert busy.parts == parts


@pytest.mark.parametrize("parts", [1, 3])
def test_endpoints_may_be_told_one_service_at_a_time(parts: int) -> None:
    objects = [service(name) for name in "abc"] + [slice_of(name) for name in "abc"]
    there = world(*objects)
    for service_key in sorted(there.touched)[:parts]:
        there.mesh([service_key], rest=False)
    assert there.mesh() == mesh(*objects)
