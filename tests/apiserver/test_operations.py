"""Every command of docs/operations.md, in the order of the page: it runs, and what the page says of it is true.

The cluster is one of its own (operated.py), since at the end of the page the injector is uninstalled.
"""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests import needs
from tests.apiserver import binaries
from tests.apiserver.cluster import Result
from tests.apiserver.injector import CHECKOUT
from tests.apiserver.objects import INIT, SIDECAR, container_names, pod
from tests.apiserver.operated import CA, CERTS, SHOP, SYSTEM, TLS, WEBHOOK, Operated, operating
from tests.apiserver.page import Fence, fences
from tests.apiserver.processes import eventually, stop
from tests.monitoring import rules

SAMPLE = re.compile(r"^(envoy_sidecar_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
FENCES = fences(CHECKOUT / "docs" / "operations.md")


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Operated]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # a build of minutes must be seen
        for program in ("kube-apiserver", "kubectl", "kube-controller-manager"):
            binaries.kubernetes(program)
    with operating(tmp_path_factory.mktemp("operations")) as up:
        yield up


# First, while nobody has broken anything: what the alerts make of it.


@pytest.mark.parametrize(
    ("changed", "firing"),
    [
        ({}, set()),
        ({"envoy_sidecar_certs_not_after_timestamp_seconds": "86400+0x120"}, {"EnvoySidecarCertsNotRenewing"}),
        ({"envoy_sidecar_certs_trust_matches": "0+0x120"}, {"EnvoySidecarTrustMismatch"}),
        (
            {"envoy_sidecar_webhook_certificate_last_reload_successful": "0x120"},
            {"EnvoySidecarCertificateReloadFailing"},
        ),
    ],
)
def test_the_alerts_understand_what_the_processes_really_say(
    operated: Operated, tmp_path: Path, changed: dict[str, str], firing: set[str]
) -> None:
    """Each of their series goes on with its value, or as `changed` by its name."""
    series = {
        f'{name}{{instance="{instance}",{labels}}}': changed.get(name, f"{float(value):f}+0x120")
        for instance, page in operated.metrics().items()
        for name, labels, value in SAMPLE.findall(page)
    }
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    query = 'group by (alertname) (ALERTS{alertstate="firing"})'
    asked = {"expr": query, "eval_time": "90m", "exp_samples": expected}
    assert rules.run(tmp_path, series, promql_expr_test=[asked]) == ""


# What the page promises of its commands: before `yield`, what is the case; after it, what has become of it.

Promise = Generator[None, Result, None]


def it_works(_: Operated) -> Promise:
    printed = yield
    assert printed.stdout == f"{INIT} {SIDECAR}\n"


def the_log_is_shown(_: Operated) -> Promise:
    printed = yield
    assert '"event":"serving"' in printed.stdout


def all_workloads_would_have_a_sidecar(_: Operated) -> Promise:
    printed = yield
    assert "Deployment shop/web" in printed.stdout
    assert " rejected" not in printed.stdout


def the_application_goes_on_without(operated: Operated) -> Promise:
    yield
    eventually(lambda: operated.runs(sidecars=False), "the application runs without sidecars")


def the_application_has_sidecars(operated: Operated) -> Promise:
    yield
    eventually(lambda: operated.runs(sidecars=True), "the application runs with sidecars")


def pods_start_though_the_webhook_hangs(operated: Operated) -> Promise:
    with operated.hanging():
        assert "failed calling webhook" in operated.ask_for_pod().stderr
        yield
        eventually(operated.lets_pass, "pods are created without the webhook")
        operated.cluster.kubectl("delete", "pods", "-n", SHOP, "-l", "app=web")
        eventually(lambda: operated.runs(sidecars=False), "the application runs without sidecars")


def sidecars_come_back(operated: Operated) -> Promise:
    yield
    eventually(operated.injects, "pods are injected")


def pods_without_a_sidecar_are_found_and_replaced(operated: Operated) -> Promise:
    names = [one["metadata"]["name"] for one in operated.pods()]
    printed = yield
    assert all(name in printed.stdout for name in names)
    eventually(lambda: operated.runs(sidecars=True), "the application runs with sidecars")


def a_certificate_is_made_anew(operated: Operated) -> Promise:
    yield from made_anew(operated, TLS)


def a_ca_is_made_anew(operated: Operated) -> Promise:
    yield from made_anew(operated, CA)


def made_anew(operated: Operated, name: str) -> Promise:
    former = operated.secret(name)
    assert former
    yield
    eventually(lambda: operated.secret(name) and operated.secret(name) != former, f"there is another {name}")
    assert operated.injects()


def nothing_former_stays_trusted(operated: Operated) -> Promise:
    former = operated.trusted()
    assert former
    with operated.without_certs():  # as the kubelet would, once it has no pod any more
        yield
    eventually(operated.injects, "pods are injected")
    assert operated.cluster.get("deployment", CERTS, "-n", SYSTEM)["spec"]["replicas"] > 0
    assert former.isdisjoint(operated.trusted())
    assert operated.trusted()


def certs_is_among_the_managers(_: Operated) -> Promise:
    printed = yield
    assert f"\t{CERTS}\n" in printed.stdout


def prometheus_takes_the_rules(_: Operated) -> Promise:
    needs.binary("promtool", "apt install prometheus, or put Prometheus' promtool on PATH")
    printed = yield
    assert printed.stdout.count("SUCCESS") == len(rules.FILES)


def the_end_of_the_certificate_is_told(_: Operated) -> Promise:
    needs.binary("openssl", "apt install openssl")
    printed = yield
    assert printed.stdout.startswith("notAfter=")


def rejections_are_told_with_their_reason(operated: Operated) -> Promise:
    wrong = pod(annotations={"log-level": "banana"})
    operated.cluster.kubectl("create", "-n", SHOP, "-f", "-", stdin=wrong, check=False)
    printed = yield
    assert '"reason":"bad_annotation"' in printed.stdout


def three_replicas_are_ready(operated: Operated) -> Promise:
    yield
    deployment = ("deployment", WEBHOOK, "-n", SYSTEM)
    eventually(lambda: operated.cluster.get(*deployment)["status"].get("readyReplicas") == 3, "three are ready")


def the_api_server_counts_its_failed_calls(_: Operated) -> Promise:
    printed = yield
    assert 'apiserver_admission_webhook_rejection_count{error_type="calling_webhook_error"' in printed.stdout


def its_rights_are_listed(_: Operated) -> Promise:
    printed = yield
    assert re.search(
        r"mutatingwebhookconfigurations\S+ +\[\] +\[envoy-sidecar-webhook\] +\[get .*patch", printed.stdout
    )


def what_the_control_plane_may_watch_is_listed(_: Operated) -> Promise:
    printed = yield
    assert re.search(r"endpointslices.discovery.k8s.io +\[\] +\[\] +\[list watch\]", printed.stdout)


def pods_are_listed_with_their_release(operated: Operated) -> Promise:
    printed = yield
    lines = [line.split() for line in printed.stdout.splitlines()]
    assert {line[1] for line in lines[1:]} >= {one["metadata"]["name"] for one in operated.pods()}
    assert "<none>" not in printed.stdout


def no_trust_is_lost(operated: Operated) -> Promise:
    former = operated.trusted()
    assert former
    yield
    assert operated.trusted() == former
    assert operated.injects()


def what_is_announced_is_there(operated: Operated) -> Promise:
    printed = yield
    announced = yaml.safe_load(printed.stdout)["data"]["hashes"].split()
    assert announced
    for one in announced:
        operated.cluster.get("configmap", f"envoy-sidecar-bootstrap-{one}", "-n", SHOP)


def sidecars_go(operated: Operated) -> Promise:
    yield
    eventually(lambda: operated.runs(sidecars=False), "the application runs without sidecars")


def nothing_of_ours_is_left(operated: Operated) -> Promise:
    for one in operated.writers:
        stop(one.process)  # as the kubelet would, once its pod is deleted
    yield
    kinds = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations"
    policies = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    ours = ("get", f"{kinds},{policies}", "-l", "app.kubernetes.io/part-of=envoy-sidecar-injector", "-o", "name")
    eventually(lambda: operated.cluster.kubectl(*ours).stdout == "", "nothing of ours is left")
    config_maps = operated.cluster.kubectl("get", "configmaps", "-n", SHOP, "-o", "name").stdout
    assert "envoy-sidecar" not in config_maps
    assert "envoy-sidecar.io" not in repr(operated.cluster.get("namespace", SHOP)["metadata"]["labels"])
    assert all(container_names(one) == ["web"] for one in operated.pods())


PROMISES: dict[str, Callable[[Operated], Promise]] = {
    "What runs 1": it_works,
    "What runs 2": the_log_is_shown,
    "Roll it out 1": all_workloads_would_have_a_sidecar,
    "Roll it out 3": the_application_has_sidecars,
    "Roll it out 4": the_application_goes_on_without,
    "Roll it out 5": the_application_has_sidecars,
    "Break the glass 1": pods_start_though_the_webhook_hangs,
    "Break the glass 2": sidecars_come_back,
    "Break the glass 3": pods_without_a_sidecar_are_found_and_replaced,
    "Certificates 2": a_certificate_is_made_anew,
    "Certificates 3": a_ca_is_made_anew,
    "Certificates 4": nothing_former_stays_trusted,
    "Certificates 5": certs_is_among_the_managers,
    "Monitoring 2": prometheus_takes_the_rules,
    "EnvoySidecarCertificateNotRenewed 1": the_end_of_the_certificate_is_told,
    "EnvoySidecarRejectionsAboveNormal 1": rejections_are_told_with_their_reason,
    "EnvoySidecarWebhookSlow 1": three_replicas_are_ready,
    "EnvoySidecarAdmissionFailing 1": the_api_server_counts_its_failed_calls,
    "EnvoySidecarCertsFailing 1": its_rights_are_listed,
    "EnvoySidecarWatchSilent 1": what_the_control_plane_may_watch_is_listed,
    "EnvoySidecarPublicationFailing 1": what_is_announced_is_there,
    "Upgrade 1": no_trust_is_lost,
    "Upgrade 3": pods_are_listed_with_their_release,
    "Uninstall 1": pods_start_though_the_webhook_hangs,
    "Uninstall 2": sidecars_go,
    "Uninstall 3": nothing_of_ours_is_left,
}


def nothing(_: Operated) -> Promise:
    """The command has to work, that is all."""
    yield


@pytest.mark.parametrize("fence", FENCES, ids=str)
def test_a_command_works_and_does_what_the_page_says(fence: Fence, operated: Operated) -> None:
    promise = PROMISES.get(str(fence), nothing)(operated)
    next(promise)
    try:
        printed = operated.type(fence.commands)
        print(printed.stdout, printed.stderr)
        assert printed.code == 0, printed.stderr
        with suppress(StopIteration):
            promise.send(printed)
    finally:
        promise.close()


def test_every_promise_is_of_a_command_of_the_page() -> None:
    assert set(PROMISES) <= {str(fence) for fence in FENCES}
