"""Bootstraps reach every opted-in namespace before a webhook names them, and stay while somebody may ask for them.

The control plane is a real process with the account that our manifests give it.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from controlplane import bootstrap
from controlplane.bootstrap import Bootstrap
from tests.apiserver.account import APPLY, JSON_PATCH, SYSTEM, Account, sign_in
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.injector import CHECKOUT
from tests.apiserver.installation import Installation
from tests.apiserver.objects import OPT_IN, config_map, pod
from tests.apiserver.processes import eventually, running
from tests.serving import serving

CONTROLPLANE, RECORD = "envoy-sidecar-controlplane", "envoy-sidecar-published"
CONTENTS = (Bootstrap(connect_timeout_seconds=seconds) for seconds in itertools.count(100))  # each like no other
Start = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def account(installation: Installation) -> Account:
    return sign_in(installation.cluster, CONTROLPLANE)


@pytest.fixture
def start(account: Account, tmp_path: Path) -> Iterator[Start]:
    """Starts a control plane with this content; all that was published is gone after the test."""
    numbers = itertools.count(1)

    @contextmanager
    def started(content: Bootstrap, *options: str) -> Iterator[None]:
        number = next(numbers)
        settings, log = tmp_path / f"{number}.yaml", tmp_path / f"controlplane-{number}.log"
        settings.write_text(f"bootstrap: {{connectTimeoutSeconds: {content.connect_timeout_seconds}}}\n")
        command = [sys.executable, "-m", "controlplane", "serve", "--settings", str(settings), "--metrics-port", "0"]
        command += ["--kubeconfig", str(account.kubeconfig), "--metrics-address", "127.0.0.1", *options]
        with running(command, log, cwd=CHECKOUT):
            yield
        assert "Traceback" not in log.read_text()
        print(log.read_text())

    yield started
    kubectl = account.cluster.kubectl
    kubectl("delete", "configmap", RECORD, "-n", SYSTEM, "--ignore-not-found")
    kubectl("delete", "configmap", "-A", "-l", "app.kubernetes.io/name=envoy-sidecar")


def announced(cluster: Cluster) -> list[str]:
    found = cluster.kubectl("get", "configmap", RECORD, "-n", SYSTEM, "-o", "jsonpath={.data.hashes}", check=False)
    return found.stdout.split()


def holders(cluster: Cluster, content: Bootstrap) -> set[str]:
    """The namespaces that have it."""
    name = bootstrap.config_map_name(content)
    found = cluster.get("configmaps", "-A", f"--field-selector=metadata.name={name}")["items"]
    return {one["metadata"]["namespace"] for one in found}


def opted_in(cluster: Cluster) -> set[str]:
    selector = "=".join(*OPT_IN.items())
    return {one["metadata"]["name"] for one in cluster.get("namespaces", "-l", selector)["items"]}


def is_announced(cluster: Cluster, content: Bootstrap) -> Callable[[], bool]:
    return lambda: bootstrap.content_hash(content) in announced(cluster)


def test_a_bootstrap_is_in_every_opted_in_namespace_when_it_is_announced(
    installation: Installation, shop: str, start: Start
) -> None:
    cluster, content = installation.cluster, next(CONTENTS)
    with start(content):
        eventually(is_announced(cluster, content), "it is announced")
        assert holders(cluster, content) == {*opted_in(cluster), SYSTEM}
        stored = cluster.get("configmap", bootstrap.config_map_name(content), "-n", shop)
    assert (stored["data"], stored["immutable"]) == (bootstrap.render(content), True)


def test_a_namespace_that_opts_in_gets_it_at_once(
    installation: Installation, new_namespace: Callable[..., str], start: Start
) -> None:
    cluster, content = installation.cluster, next(CONTENTS)
    late = new_namespace({})
    with start(content, "--period-seconds", "600"):
        eventually(is_announced(cluster, content), "it is announced")
        assert late not in holders(cluster, content)
        cluster.kubectl("label", "namespace", late, "envoy-sidecar.io/inject=enabled")
        eventually(lambda: late in holders(cluster, content), "the namespace has it", seconds=5)


def test_an_upgrade_and_an_undo_find_theirs_also_in_a_namespace_that_came_between(
    installation: Installation, new_namespace: Callable[..., str], start: Start
) -> None:
    cluster, old, new = installation.cluster, next(CONTENTS), next(CONTENTS)
    with start(old):
        eventually(is_announced(cluster, old), "the old one is announced")
    with start(new):
        eventually(is_announced(cluster, new), "the new one is announced")
        between = new_namespace()
        eventually(lambda: between in holders(cluster, new) & holders(cluster, old), "both are there")
        assert is_announced(cluster, old)()


def test_a_webhook_is_ready_only_when_no_pod_of_its_would_wait(
    installation: Installation, shop: str, start: Start, tmp_path: Path
) -> None:
    cluster, content, mounted = installation.cluster, next(CONTENTS), tmp_path / "hashes"
    settings = f"""
    bootstrap: {{connectTimeoutSeconds: {content.connect_timeout_seconds}}}
    server: {{publishedFile: {mounted}, shutdownGraceSeconds: 0}}
    """

    def ready_without_waiting_pods() -> bool:
        mounted.write_text("\n".join(announced(cluster)))  # as the kubelet does
        client.request("GET", "/readyz")
        answer = client.getresponse()
        answer.read()
        if answer.status == 200:
            assert shop in holders(cluster, content)
        return answer.status == 200

    with serving(tmp_path / "webhook", settings) as server:
        client = server.client()
        assert not ready_without_waiting_pods()
        with start(content):
            eventually(ready_without_waiting_pods, "the webhook is ready")
        client.close()


def test_a_namespace_that_refuses_holds_nobody_else_up(
    installation: Installation, new_namespace: Callable[..., str], start: Start
) -> None:
    cluster, content = installation.cluster, next(CONTENTS)
    full, other = new_namespace(), new_namespace()
    cluster.kubectl("create", "quota", "full", "-n", full, "--hard=configmaps=0")
    counted = '{"status": {"hard": {"configmaps": "0"}, "used": {"configmaps": "0"}}}'  # as its controller would write
    cluster.kubectl("patch", "quota", "full", "-n", full, "--subresource=status", "--type=merge", "-p", counted)
    one_more = ("create", "configmap", "x", "-n", full, "--dry-run=server")
    eventually(lambda: cluster.kubectl(*one_more, check=False).code, "the quota counts")
    with start(content):
        eventually(is_announced(cluster, content), "it is announced")
        assert other in holders(cluster, content)
        assert full not in holders(cluster, content)
    cluster.kubectl("delete", "quota", "full", "-n", full)


def test_an_outdated_bootstrap_goes_when_no_pod_names_it(
    installation: Installation, shop: str, start: Start, new_namespace: Callable[..., str]
) -> None:
    cluster, named, forgotten, new = installation.cluster, next(CONTENTS), next(CONTENTS), next(CONTENTS)
    for content in (named, forgotten):
        with start(content):
            eventually(is_announced(cluster, content), "it is announced")
    runs = pod("old", annotations={"bootstrap-hash": bootstrap.content_hash(named)}, labels={**OPT_OUT, **INJECTED})
    cluster.kubectl("create", "-n", shop, "-f", "-", stdin=runs)
    with start(new, "--retention-days", "0.00001", "--period-seconds", "1"):
        eventually(lambda: not holders(cluster, forgotten), "the forgotten one is gone")
        eventually(is_announced(cluster, new), "the new one is announced")
        assert shop in holders(cluster, named)
        assert is_announced(cluster, named)()


OPT_OUT = {"envoy-sidecar.io/inject": "disabled"}
INJECTED = {"envoy-sidecar.io/injected": "true"}


def test_two_that_start_together_agree(installation: Installation, shop: str, start: Start) -> None:
    cluster, content = installation.cluster, next(CONTENTS)
    with start(content), start(content):
        eventually(is_announced(cluster, content), "it is announced")
        version = cluster.get("configmap", RECORD, "-n", SYSTEM)["metadata"]["resourceVersion"]
        with start(content):  # a third has nothing to write
            eventually(lambda: shop in holders(cluster, content), "it is there")
    assert cluster.get("configmap", RECORD, "-n", SYSTEM)["metadata"]["resourceVersion"] == version


# What the account may do


def refused(account: Account, method: str, path: str, body: object = None, content_type: str = APPLY) -> None:
    answer = account.ask(method, path, body, content_type)
    assert answer.status in (403, 405, 422), answer


def written(name: str, namespace: str) -> tuple[str, Object]:
    thing = config_map(name)
    thing["metadata"]["namespace"] = namespace
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}", thing


@pytest.mark.parametrize("name", ["envoy-sidecar-ca", "kube-root-ca.crt", "settings", RECORD])
def test_the_control_plane_may_write_no_other_config_map(account: Account, shop: str, name: str) -> None:
    path, thing = written(name, shop)
    refused(account, "PATCH", path, thing)


def test_the_control_plane_may_not_delete_what_is_not_its_own(account: Account, shop: str) -> None:
    path, thing = written("settings", shop)
    account.cluster.kubectl("create", "-f", "-", stdin=thing)
    refused(account, "DELETE", path)
    refused(account, "DELETE", f"/api/v1/namespaces/{shop}/configmaps")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/{shop}/configmaps",
        "/api/v1/namespaces/{shop}/configmaps/settings",
        "/api/v1/secrets",
        f"/api/v1/namespaces/{SYSTEM}/secrets",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    ],
)
def test_the_control_plane_may_not_read(account: Account, shop: str, path: str) -> None:
    refused(account, "GET", path.format(shop=shop))


def test_the_control_plane_may_not_touch_a_pod_or_a_namespace(account: Account, shop: str) -> None:
    label: list[Mapping[str, str]] = [{"op": "add", "path": "/metadata/labels/x", "value": "y"}]
    refused(account, "PATCH", f"/api/v1/namespaces/{shop}", label, JSON_PATCH)
    refused(account, "DELETE", f"/api/v1/namespaces/{shop}/pods/any")
