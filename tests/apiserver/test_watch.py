"""The watch over a real API server: whatever happened, it ends with what a fresh list would say."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane import apiserver, kube
from controlplane.apiserver import KubeError
from controlplane.kube import Collection, Event, Kube
from controlplane.reporter import Reporter
from controlplane.xds.feed import Feed
from controlplane.xds.mesh import Key, Mesh
from controlplane.xds.watch import COLLECTIONS, Watch
from controlplane.xds.world import WHAT, World
from tests import cluster as build
from tests.apiserver import control_plane
from tests.apiserver.account import SYSTEM, sign_in
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.installation import Installation
from tests.apiserver.objects import namespace
from tests.apiserver.processes import eventually
from tests.apiserver.writer import Writer

SERVICES = 1500
SECONDS = 60.0


class Watched:
    """A watch, and the newest Mesh that it led to."""

    def __init__(self, api: Kube) -> None:
        self.meshes: list[Mesh] = []
        self.failures: list[Exception] = []
        self.feed = Feed(self.meshes.append)
        self._watch = Watch(api, self.feed, lambda _, error: self.failures.append(error))
        self._thread = threading.Thread(target=self.feed.run)

    def __enter__(self) -> "Watched":
        self._watch.start()
        self._thread.start()
        eventually(lambda: bool(self.meshes), "a first Mesh", seconds=SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.stop()
        self.feed.stop()
        self._thread.join()

    @property
    def mesh(self) -> Mesh:
        return self.meshes[-1]


@pytest.fixture
def api(kubernetes: Cluster) -> Kube:
    return Kube(apiserver.connect(str(kubernetes.kubeconfig)))


@pytest.fixture
def watched(api: Kube) -> Iterator[Watched]:
    with Watched(api) as running:
        yield running


def fresh(api: Kube) -> Mesh:
    """What a list says at this moment."""
    world = World()
    for what in WHAT:
        world.replace(what, api.whole(COLLECTIONS[what])[0])
    return world.mesh()


def same(watched: Watched, api: Kube) -> None:
    eventually(lambda: watched.mesh == fresh(api), "the watch knows what a fresh list says", seconds=SECONDS)


def services(where: str, numbers: range, **spec: object) -> list[Object]:
    return [build.service(f"s{n}", where, clusterIP=None, **spec) for n in numbers]  # type: ignore[arg-type]


def slices(where: str, numbers: range, network: int = 1) -> list[Object]:
    return [build.slice_of(f"s{n}", [f"10.{network}.{n // 250}.{n % 250 + 1}"], where) for n in numbers]


def test_1500_services_created_changed_and_deleted_are_known_as_a_fresh_list_has_them(
    kubernetes: Cluster, api: Kube, watched: Watched, new_namespace: Callable[..., str]
) -> None:
    where, writer = new_namespace({}), Writer.of(kubernetes)
    everything = range(SERVICES)
    writer.create([*services(where, everything), *slices(where, everything)])
    same(watched, api)
    assert len(watched.mesh.services[where]) == SERVICES
    writer.patch(
        [*slices(where, range(0, SERVICES, 2), network=2), *services(where, range(0, SERVICES, 3), ports=[81])]
    )
    same(watched, api)
    writer.delete([*services(where, range(0, SERVICES, 4)), *slices(where, range(1, SERVICES, 4))])
    same(watched, api)
    assert watched.failures == []


def test_a_change_is_known_within_a_moment(
    kubernetes: Cluster, watched: Watched, new_namespace: Callable[..., str]
) -> None:
    where, writer = new_namespace({}), Writer.of(kubernetes)
    writer.create([*services(where, range(1)), *slices(where, range(1))])
    eventually(lambda: build.addresses(watched.mesh, "s0", namespace=where), "the endpoint is known")
    writer.patch(slices(where, range(1), network=9))
    eventually(lambda: build.addresses(watched.mesh, "s0", namespace=where) == ["10.9.0.1"], "the other one is")
    writer.delete(slices(where, range(1)))
    eventually(lambda: not build.addresses(watched.mesh, "s0", namespace=where), "that it is gone is")


def test_of_pods_and_nodes_nothing_but_the_metadata_is_asked_for(
    kubernetes: Cluster, api: Kube, watched: Watched, new_namespace: Callable[..., str]
) -> None:
    where, writer = new_namespace({}), Writer.of(kubernetes)
    kubernetes.kubectl("create", "serviceaccount", "default", "-n", where, check=False)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-1",
            "namespace": where,
            "labels": {"envoy-sidecar.io/injected": "true"},
            "annotations": {"envoy-sidecar.io/upstreams": "orders"},
        },
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
    }
    writer.create([build.node(f"{where}-node", "eu-1a"), pod])
    eventually(lambda: (where, "web-1") in watched.mesh.workloads, "the pod is known")
    eventually(lambda: watched.mesh.zones.get(f"{where}-node") == "eu-1a", "the node's zone is")
    assert watched.mesh.workloads[Key(where, "web-1")].upstreams == ("orders",)
    for what in ("Pod", "Node"):
        objects, _ = api.whole(COLLECTIONS[what])
        assert all(set(one) <= {"metadata", "kind", "apiVersion"} for one in objects)


def test_a_list_comes_in_pages(
    api: Kube, kubernetes: Cluster, new_namespace: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, writer = new_namespace({}), Writer.of(kubernetes)
    writer.create(services(where, range(7)))
    monkeypatch.setattr(kube, "PAGE", 3)
    objects, _ = api.whole(Collection(f"/api/v1/namespaces/{where}/services"))
    assert sorted(one["metadata"]["name"] for one in objects) == [f"s{n}" for n in range(7)]


# An API server of its own, that goes and comes back


@pytest.fixture
def alone(tmp_path: Path, kubernetes: Cluster) -> Iterator[tuple[Cluster, str]]:
    """Another cluster, whose API server does not run yet, and its etcd."""
    with control_plane.etcd(tmp_path) as store:
        yield control_plane.described(tmp_path), store


class Forgetful(Kube):
    """Asks for the beginning of time at first: what the API server answers is 410 Gone."""

    asked = itertools.count()

    def events(self, of: Collection, version: str) -> Iterator[Event]:
        return super().events(of, "1" if next(self.asked) < len(WHAT) else version)


def test_an_api_server_that_goes_changes_nothing_and_is_followed_when_it_is_back(alone: tuple[Cluster, str]) -> None:
    cluster, store = alone
    with ExitStack() as whole:
        with control_plane.serving(cluster, store):
            cluster.kubectl("create", "-f", "-", stdin=[namespace("shop", {})])
            Writer.of(cluster).create([*services("shop", range(20)), *slices("shop", range(20))])
            api = Kube(apiserver.connect(str(cluster.kubeconfig)))
            watched = whole.enter_context(Watched(api))
            same(watched, api)
        eventually(lambda: bool(watched.failures), "the loss is noticed", seconds=SECONDS)
        assert len(watched.mesh.endpoints) == 20
        with control_plane.serving(cluster, store):
            writer = Writer.of(cluster)
            writer.patch(slices("shop", range(10), network=2))
            writer.delete(slices("shop", range(10, 13)))
            same(watched, api)
            assert len(watched.mesh.endpoints) == 17
            # What was before its restart this server does not know: 410 Gone, after which all is listed anew.
            again = whole.enter_context(Watched(Forgetful(api.api)))
            eventually(lambda: len(again.failures) == len(WHAT), "each kind is told so", seconds=SECONDS)
            assert {error.reason for error in again.failures if isinstance(error, KubeError)} == {"gone"}
            writer.delete(slices("shop", range(13, 15)))
            same(again, api)


def test_a_store_that_was_restored_from_a_backup_is_known_as_it_is(
    alone: tuple[Cluster, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are lower than those that were watched: a watch from such a one tells nothing, and no error."""
    monkeypatch.setattr(kube, "WATCH_SECONDS", 5)
    cluster, store = alone
    (tmp_path / "backup").mkdir()
    with ExitStack() as whole:
        backup = whole.enter_context(control_plane.etcd(tmp_path / "backup"))
        with control_plane.serving(cluster, backup):
            cluster.kubectl("create", "-f", "-", stdin=[namespace("shop", {})])
            Writer.of(cluster).create([*services("shop", range(5)), *slices("shop", range(5))])
        with control_plane.serving(cluster, store):
            cluster.kubectl("create", "-f", "-", stdin=[namespace("shop", {})])
            writer = Writer.of(cluster)
            writer.create([*services("shop", range(8)), *slices("shop", range(8))])
            for number in range(200):
                writer.patch(slices("shop", range(8), network=number % 2 + 2))
            api = Kube(apiserver.connect(str(cluster.kubeconfig)))
            watched = whole.enter_context(Watched(api))
            same(watched, api)
            before = int(api.newest(COLLECTIONS["Service"]))
        with control_plane.serving(cluster, backup):
            assert int(api.newest(COLLECTIONS["Service"])) < before
            same(watched, api)
            assert len(watched.mesh.services["shop"]) == 5
            assert "gone" not in {error.reason for error in watched.failures if isinstance(error, KubeError)}


def test_a_bookmark_comes_before_a_watch_ends(
    api: Kube, kubernetes: Cluster, new_namespace: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what has changed is of no interest, such as slices of headless Services."""
    monkeypatch.setattr(kube, "WATCH_SECONDS", 5)
    where, of = new_namespace({}), COLLECTIONS["EndpointSlice"]
    headless = slices(where, range(1))
    headless[0]["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    _, before = api.whole(of)
    writing = threading.Timer(1, Writer.of(kubernetes).create, [headless])
    writing.start()
    told = list(api.events(of, before))
    writing.join()
    assert {one.type for one in told} == {"BOOKMARK"}
    assert int(told[-1].version) > int(before)


# With the rights that our manifests give


@pytest.fixture
def ours(installation: Installation) -> Kube:
    """As the control plane's account."""
    return Kube(apiserver.connect(str(sign_in(installation.cluster, "envoy-sidecar-controlplane").kubeconfig)))


def test_its_account_may_watch_all_that_it_needs(ours: Kube) -> None:
    with Watched(ours) as watched:
        eventually(lambda: len(watched.feed.silence()) == len(WHAT), "each kind was heard of")
        assert watched.failures == []


def test_what_is_wrong_with_a_service_stands_in_its_events_once(
    kubernetes: Cluster, ours: Kube, new_namespace: Callable[..., str]
) -> None:
    where, writer = new_namespace({}), Writer.of(kubernetes)
    writer.create([build.service("orders", where, {"retries": "many"}, clusterIP=None)])
    found = fresh(ours)
    mine = replace(found, services={where: found.services[where]}, problems=())
    for _ in range(2):  # as two replicas do it
        Reporter(ours.report).look(mine)

    def described() -> list[str]:
        found = kubernetes.kubectl("describe", "service", "orders", "-n", where).stdout
        return [line for line in found.splitlines() if "envoy-sidecar-controlplane" in line]

    (line,) = eventually(described, "kubectl describe shows it")
    assert "Warning" in line
    assert "envoy-sidecar.io/retries: 'many': use a whole number" in line
    listed = kubernetes.get("events", "-n", where, "--field-selector", "involvedObject.name=orders")
    assert len(listed["items"]) == 1


def test_its_account_may_ask_whose_token_it_is(kubernetes: Cluster, ours: Kube) -> None:
    token = kubernetes.kubectl("create", "token", "envoy-sidecar-webhook", "-n", SYSTEM, "--audience=somebody").stdout
    assert ours.review(token.strip(), "somebody")["authenticated"] is True
    assert ours.review(token.strip(), "somebody-else").get("authenticated") is not True
