"""Others change the pod too: before us, after us, and after we thought that we were done."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import OURS, Injector
from tests.apiserver.meddler import Meddle, meddling, registration
from tests.apiserver.objects import (
    INIT,
    SIDECAR,
    container,
    container_names,
    init_names,
    named,
    pod,
    sidecar,
)
from tests.apiserver.processes import eventually

TCP_PROBES = [
    container(
        ports=[{"name": "db", "containerPort": 5432}],
        startupProbe={"tcpSocket": {"port": "db"}},
        readinessProbe={"tcpSocket": {"port": 5432}, "periodSeconds": 3},
        livenessProbe={"httpGet": {"port": "db"}},
    )
]
AFTER_US, BEFORE_US = "z-meddler", "a-meddler"
SERVER_FIELDS = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation")


class Shop:
    """A namespace in which pods are created and looked at."""

    def __init__(self, kubernetes: Cluster, webhook: Injector, name: str) -> None:
        self.kubernetes, self.webhook, self.name = kubernetes, webhook, name

    def create(self, thing: Object, *arguments: str) -> Object:
        command = ("create", "-n", self.name, "-o", "json", "-f", "-", *arguments)
        return self.kubernetes.kubectl(*command, stdin=thing).object

    def looks(self, name: str) -> list[bool]:
        """Whether each of our looks at that pod changed it, in order."""
        return self.kubernetes.looks(OURS, name, self.name)

    def third_look(self, stored: Object) -> list[bool]:
        """Our looks at a copy of a stored pod."""
        metadata = {key: value for key, value in stored["metadata"].items() if key not in SERVER_FIELDS}
        copy = {key: value for key, value in stored.items() if key != "status"}
        self.create(copy | {"metadata": metadata | {"name": "copy"}})
        return self.looks("copy")

    @contextmanager
    def meddled(self, registered: str, meddle: Meddle) -> Iterator[None]:
        """Somebody else's webhook is called for every pod in here, and then is gone again."""
        certificate = self.webhook.certificate
        with meddling(certificate, meddle) as (url, calls):
            webhook = registration(registered, url, certificate, self.name)
            self.kubernetes.kubectl("create", "-f", "-", stdin=webhook)
            try:
                eventually(lambda: self.calls_while_asking(calls) > 0, "the other webhook is called")
                yield
            finally:
                self.kubernetes.kubectl("delete", "-f", "-", stdin=webhook)
                eventually(lambda: self.calls_while_asking(calls) == 0, "the other webhook is gone")

    def calls_while_asking(self, calls: list[Object]) -> int:
        before = len(calls)
        self.create(pod("asked"), "--dry-run=server")
        return len(calls) - before


def cart(name: str, **parts: Any) -> Object:
    """A pod of the service `cart`, which the sidecar calls itself after."""
    return pod(name, labels={"app": "cart"}, **parts)


@pytest.fixture
def here(kubernetes: Cluster, webhook: Injector, shop: str) -> Shop:
    return Shop(kubernetes, webhook, shop)


def add_container(meddled: Object) -> list[Object]:
    """A log shipper, as many clusters add to every pod."""
    if "shipper" in container_names(meddled):
        return []
    return [{"op": "add", "path": "/spec/containers/-", "value": container("shipper")}]


def change_image_of_ours(meddled: Object) -> list[Object]:
    """A registry mirror rewrites images."""
    return [
        {"op": "replace", "path": f"/spec/initContainers/{index}/image", "value": "mirror.example.com/envoy"}
        for index, name in enumerate(init_names(meddled))
        if name == SIDECAR
    ]


def add_variable_everywhere(meddled: Object) -> list[Object]:
    """A tracing agent adds a variable to every container, ours among them."""
    spec = meddled["spec"]
    variable = {"name": "AGENT", "value": "on"}
    return [
        {"op": "add", "path": f"/spec/{part}/{index}/env", "value": [*one.get("env", []), variable]}
        for part in ("containers", "initContainers")
        for index, one in enumerate(spec.get(part, []))
        if variable not in one.get("env", [])
    ]


def put_own_init_first(meddled: Object) -> list[Object]:
    """Somebody insists on being first."""
    if init_names(meddled)[:1] == ["first"]:
        return []
    if not init_names(meddled):
        return [{"op": "add", "path": "/spec/initContainers", "value": [container("first")]}]
    return [{"op": "add", "path": "/spec/initContainers/0", "value": container("first")}]


def remove_our_mounts(meddled: Object) -> list[Object]:
    """A policy engine that knows better."""
    return [
        {"op": "remove", "path": f"/spec/initContainers/{index}/volumeMounts"}
        for index, one in enumerate(meddled["spec"].get("initContainers", []))
        if one["name"] == SIDECAR and one.get("volumeMounts")
    ]


def point_probe_elsewhere(meddled: Object) -> list[Object]:
    """Somebody has moved the application to another port."""
    present = meddled["spec"]["containers"][0].get("readinessProbe", {})
    moved = {key: value for key, value in present.items() if key not in ("httpGet", "tcpSocket")}
    moved |= {"tcpSocket": {"port": 6432}}
    asks = present.get("httpGet", {}).get("path")
    if not present or moved == present or asks == "/tcp/6432":
        return []
    return [{"op": "replace", "path": "/spec/containers/0/readinessProbe", "value": moved}]


def make_probes_patient(meddled: Object) -> list[Object]:
    """A policy that knows how long things take."""
    if "readinessProbe" not in meddled["spec"]["containers"][0]:
        return []
    return [{"op": "add", "path": "/spec/containers/0/readinessProbe/timeoutSeconds", "value": 9}]


def test_what_the_server_fills_in_gives_us_nothing_to_do(here: Shop) -> None:
    here.create(cart("cart"))
    assert here.looks("cart") == [True, False]


def test_images_are_pulled_as_the_cluster_demands(here: Shop) -> None:
    stored = here.create(cart("cart"))
    everything = stored["spec"]["initContainers"] + stored["spec"]["containers"]
    assert {one["name"]: one["imagePullPolicy"] for one in everything} == dict.fromkeys(
        [INIT, SIDECAR, "app"], "Always"
    )


@pytest.mark.parametrize("form", ["native", "classic"])
def test_a_copy_of_a_stored_pod_gives_us_nothing_to_do(here: Shop, form: str) -> None:
    stored = here.create(cart("cart", annotations={"sidecar": form}, initContainers=[container("migrate")]))
    assert here.third_look(stored) == [False]


@pytest.mark.parametrize("form", ["native", "classic"])
def test_a_tcp_probe_is_stored_as_one_of_the_sidecar_and_gives_us_nothing_more_to_do(here: Shop, form: str) -> None:
    cache = container("cache", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 6379}})
    annotations = {"sidecar": form}
    stored = here.create(cart("cart", annotations=annotations, containers=TCP_PROBES, initContainers=[cache]))
    app, cache = named(stored["spec"]["containers"], "app"), named(stored["spec"]["initContainers"], "cache")
    asked = {kind: probe.get("httpGet", {}).get("path") for kind, probe in app.items() if kind.endswith("Probe")}
    assert asked == {"startupProbe": "/tcp/5432", "readinessProbe": "/tcp/5432", "livenessProbe": "/"}
    assert cache["readinessProbe"]["httpGet"] == {"path": "/tcp/6379", "port": 15020, "scheme": "HTTP"}
    assert here.looks("cart") == [True, False]
    assert here.third_look(stored) == [False]


@pytest.mark.parametrize("registered", [BEFORE_US, AFTER_US])
def test_a_tcp_probe_that_another_webhook_changes_is_asked_of_the_sidecar_again(here: Shop, registered: str) -> None:
    with here.meddled(registered, point_probe_elsewhere):
        stored = here.create(cart("cart", containers=TCP_PROBES))
    assert stored["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/tcp/6432"
    assert "/tcp/6432" in " ".join(sidecar(stored)["args"])
    assert here.third_look(stored) == [False]


def test_what_another_webhook_says_of_a_rewritten_probe_stays(here: Shop) -> None:
    with here.meddled(AFTER_US, make_probes_patient):
        stored = here.create(cart("cart", containers=TCP_PROBES))
    probe = stored["spec"]["containers"][0]["readinessProbe"]
    assert (probe["httpGet"]["path"], probe["timeoutSeconds"], probe["periodSeconds"]) == ("/tcp/5432", 9, 3)
    assert here.third_look(stored) == [False]


@pytest.mark.parametrize("registered", [BEFORE_US, AFTER_US])
def test_a_container_that_another_webhook_adds_stays_beside_ours(here: Shop, registered: str) -> None:
    with here.meddled(registered, add_container):
        stored = here.create(cart("cart"))
    assert container_names(stored) == ["app", "shipper"]
    assert init_names(stored) == [INIT, SIDECAR]
    assert here.third_look(stored) == [False]


@pytest.mark.parametrize("meddle", [change_image_of_ours, add_variable_everywhere, remove_our_mounts])
def test_our_container_is_repaired_when_another_webhook_edits_it(here: Shop, meddle: Meddle) -> None:
    untouched = here.create(cart("untouched"))
    with here.meddled(AFTER_US, meddle):
        stored = here.create(cart("cart"))
    assert here.looks("cart") == [True, True]
    assert sidecar(stored) == sidecar(untouched)
    assert here.third_look(stored) == [False]


def test_what_another_webhook_adds_to_the_container_of_the_author_stays(here: Shop) -> None:
    with here.meddled(AFTER_US, add_variable_everywhere):
        stored = here.create(cart("cart"))
    (app,) = stored["spec"]["containers"]
    assert app["env"] == [{"name": "AGENT", "value": "on"}]


def test_an_init_container_that_another_webhook_puts_first_ends_in_one_right_order(here: Shop) -> None:
    with here.meddled(AFTER_US, put_own_init_first):
        stored = here.create(cart("cart"))
    names = init_names(stored)
    assert sorted(names) == sorted([INIT, SIDECAR, "first"])
    assert names.index(INIT) < names.index(SIDECAR)
    assert here.third_look(stored) == [False]


@pytest.fixture
def filled_in(here: Shop) -> Object:
    """What a LimitRange, which acts, fills into containers that say nothing."""
    amounts = {"cpu": "200m", "memory": "128Mi", "ephemeral-storage": "1Gi"}
    spec = {"limits": [{"type": "Container", "default": amounts, "defaultRequest": amounts}]}
    limits = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"}, "spec": spec}
    here.kubernetes.kubectl("create", "-n", here.name, "-f", "-", stdin=limits)

    def acts() -> bool:
        asked = here.create(cart("asked"), "--dry-run=server")
        return bool(asked["spec"]["containers"][0]["resources"])

    eventually(acts, "the LimitRange acts")
    return amounts


def test_a_limit_range_fills_in_only_what_we_did_not_say(here: Shop, filled_in: Object) -> None:
    stored = here.create(cart("cart"))
    assert stored["spec"]["containers"][0]["resources"] == {"limits": filled_in, "requests": filled_in}
    assert sidecar(stored)["resources"]["requests"] == {
        "cpu": "50m",
        "memory": "80Mi",
        "ephemeral-storage": "1Gi",
    }


def test_what_a_limit_range_fills_in_gives_us_nothing_to_do(here: Shop, filled_in: Object) -> None:
    stored = here.create(cart("cart"))
    assert here.looks("cart") == [True, False]
    assert here.third_look(stored) == [False]


def test_a_repair_keeps_what_a_limit_range_filled_in(here: Shop, filled_in: Object) -> None:
    untouched = here.create(cart("untouched"))
    with here.meddled(AFTER_US, change_image_of_ours):
        stored = here.create(cart("cart"))
    assert sidecar(stored) == sidecar(untouched)
