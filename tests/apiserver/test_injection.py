"""What a pod's author gets, and is told."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.injector import CHECKOUT, OURS, SETTINGS, Injector
from tests.apiserver.objects import (
    IMAGE,
    INIT,
    OPT_OUT,
    SIDECAR,
    container,
    container_names,
    generated,
    init_names,
    named,
    pod,
    sidecar,
    workload,
)

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
DEBUGGER = ("--image=registry.example.com/tools", "--attach=false")
KEEP_ALL = ("--keep-annotations", "--keep-labels")
WORKLOADS = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"]


@pytest.fixture
def create(kubernetes: Cluster, shop: str) -> Callable[..., Result]:
    """`kubectl create` in an opted-in namespace."""

    def kubectl_create(thing: Object, *arguments: str, check: bool = True) -> Result:
        command = ("create", "-n", shop, "-o", "json", "-f", "-", *arguments)
        return kubernetes.kubectl(*command, stdin=thing, check=check)

    return kubectl_create


Create = Callable[..., Result]


def test_a_pod_is_stored_with_its_sidecar(create: Create, kubernetes: Cluster, shop: str) -> None:
    create(pod("cart"))
    stored = kubernetes.get("pod", "cart", "-n", shop)
    assert init_names(stored) == [INIT, SIDECAR]
    assert container_names(stored) == ["app"]
    assert stored["metadata"]["labels"]["envoy-sidecar.io/injected"] == "true"


def test_the_native_sidecar_precedes_the_init_containers_of_the_author(create: Create) -> None:
    stored = create(pod(initContainers=[container("migrate")])).object
    assert init_names(stored) == [INIT, SIDECAR, "migrate"]
    assert sidecar(stored)["restartPolicy"] == "Always"


def test_the_classic_sidecar_is_the_first_container(create: Create) -> None:
    stored = create(pod(annotations={"sidecar": "classic"}, initContainers=[container("migrate")])).object
    assert container_names(stored) == [SIDECAR, "app"]
    assert init_names(stored) == ["migrate", INIT]


def test_a_pod_that_the_server_names_is_injected(create: Create) -> None:
    stored = create(generated(pod(), "cart-")).object
    assert stored["metadata"]["name"].startswith("cart-")
    assert SIDECAR in init_names(stored)


def test_a_dry_run_shows_what_would_be_stored(create: Create) -> None:
    service = {"app": "cart"}
    shown = create(pod("dry", labels=service), "--dry-run=server").object
    stored = create(pod("wet", labels=service)).object
    assert shown["spec"]["initContainers"] == stored["spec"]["initContainers"]


def test_a_dry_run_stores_nothing(create: Create, kubernetes: Cluster, shop: str) -> None:
    create(pod(), "--dry-run=server")
    assert kubernetes.get("pods", "-n", shop)["items"] == []


def test_what_the_offline_command_prints_is_stored_as_it_is(create: Create, kubernetes: Cluster, shop: str) -> None:
    create(injected_offline(pod("offline")))
    assert set(kubernetes.looks(OURS, "offline", shop)) == {False}


def test_an_author_who_forges_our_marker_does_not_run_his_own_image_under_our_name(create: Create) -> None:
    forged = pod(annotations={"version": "0.1.0"}, initContainers=[container(SIDECAR, restartPolicy="Always")])
    assert sidecar(create(forged).object)["image"] != IMAGE


def test_a_copy_for_debugging_with_its_annotations_is_left_as_it_is(
    create: Create, kubernetes: Cluster, shop: str
) -> None:
    create(pod("cart", labels={"app": "cart"}))
    kubernetes.kubectl("debug", "cart", "-n", shop, "--copy-to=copy", *DEBUGGER, *KEEP_ALL)
    assert set(kubernetes.looks(OURS, "copy", shop)) == {False}


def test_a_copy_for_debugging_without_its_annotations_is_refused_with_what_to_do(
    create: Create, kubernetes: Cluster, shop: str
) -> None:
    create(pod("cart"))
    refused = kubernetes.kubectl("debug", "cart", "-n", shop, "--copy-to=copy", *DEBUGGER, check=False)
    assert "--keep-annotations" in refused.stderr


def test_the_sidecar_does_not_see_the_token_of_the_application(create: Create) -> None:
    stored = create(pod()).object
    mounts = {
        one["name"]: [mount["name"] for mount in one["volumeMounts"] if mount["mountPath"] == TOKEN_PATH]
        for one in stored["spec"]["initContainers"] + stored["spec"]["containers"]
    }
    (token,) = mounts.pop("app")
    assert token.startswith("kube-api-access-")
    assert mounts == {SIDECAR: ["envoy-sidecar-no-token"], INIT: ["envoy-sidecar-no-token"]}


def test_the_pod_names_the_bootstrap_that_the_control_plane_prints(
    create: Create, kubernetes: Cluster, shop: str, bootstrap: Callable[[str], Object]
) -> None:
    printed = bootstrap(shop)
    kubernetes.kubectl("create", "-f", "-", stdin=printed)
    mounted = named(create(pod()).object["spec"]["volumes"], "envoy-sidecar-bootstrap")
    assert mounted["configMap"]["name"] == printed["metadata"]["name"]


def test_a_namespace_that_did_not_opt_in_is_never_sent_to_us(
    kubernetes: Cluster, webhook: Injector, installation: object, new_namespace: Callable[..., str]
) -> None:
    elsewhere, before = new_namespace({}), webhook.requests()
    stored = kubernetes.kubectl("create", "-n", elsewhere, "-o", "json", "-f", "-", stdin=pod()).object
    assert init_names(stored) == []
    assert webhook.requests() == before


def test_a_pod_that_opted_out_is_never_sent_to_us(create: Create, webhook: Injector) -> None:
    before = webhook.requests()
    assert init_names(create(pod(labels=OPT_OUT)).object) == []
    assert webhook.requests() == before


def test_a_change_of_a_pod_is_not_sent_to_us(create: Create, kubernetes: Cluster, shop: str, webhook: Injector) -> None:
    create(pod("cart"))
    before = webhook.requests()
    kubernetes.kubectl("label", "pod", "cart", "-n", shop, "colour=blue")
    kubernetes.kubectl("delete", "pod", "cart", "-n", shop, "--now")
    assert webhook.requests() == before


def test_a_pod_that_is_injected_is_sent_to_us(create: Create, webhook: Injector) -> None:
    before = webhook.requests()
    create(pod())
    assert webhook.requests() > before


def test_a_bad_annotation_is_refused_with_its_value_and_what_is_allowed(create: Create) -> None:
    refused = create(pod(annotations={"log-level": "banana"}), check=False)
    assert refused.code != 0
    assert 'admission webhook "' in refused.stderr
    for part in ("envoy-sidecar.io/log-level", "banana", "warning"):
        assert part in refused.stderr


def test_a_misspelt_key_is_answered_with_a_warning_that_names_the_right_one(create: Create) -> None:
    warned = create(pod(annotations={"exclude-inbound-port": "8080"}))
    assert "envoy-sidecar.io/exclude-inbound-ports" in warned.warnings


def test_a_skipped_pod_is_answered_with_the_coded_reason(create: Create) -> None:
    warned = create(pod(hostNetwork=True))
    assert init_names(warned.object) == []
    assert "host_network" in warned.warnings


def test_the_audit_log_says_what_was_decided_and_by_which_settings(
    create: Create, kubernetes: Cluster, shop: str
) -> None:
    stored = create(pod("audited")).object
    audit = kubernetes.audit("audited", shop)
    ours = {key.rpartition("/")[2]: value for key, value in audit.items()}
    assert ours["decision"] == "injected"
    assert ours["settings-hash"] == stored["metadata"]["annotations"]["envoy-sidecar.io/settings-hash"]


def test_the_audit_log_says_why_a_pod_was_refused(create: Create, kubernetes: Cluster, shop: str) -> None:
    create(pod("refused", annotations={"log-level": "banana"}), check=False)
    ours = {key.rpartition("/")[2]: value for key, value in kubernetes.audit("refused", shop).items()}
    assert (ours["decision"], ours["reason"]) == ("rejected", "bad_annotation")


@pytest.mark.parametrize("kind", WORKLOADS)
def test_applying_a_workload_with_a_bad_annotation_warns_its_author_at_once(
    kubernetes: Cluster, shop: str, kind: str
) -> None:
    bad = workload(kind, pod(annotations={"log-level": "banana"}))
    applied = kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=bad)
    assert applied.stdout.endswith("cart created\n")
    assert 'envoy-sidecar.io/log-level: "banana"' in applied.warnings


def test_changing_a_deployment_for_the_worse_warns_too(kubernetes: Cluster, shop: str) -> None:
    kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=workload("Deployment", pod()))
    worse = workload("Deployment", pod(annotations={"log-level": "banana"}))
    assert "banana" in kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=worse).warnings


def test_applying_a_job_with_a_classic_sidecar_warns_that_it_never_ends(kubernetes: Cluster, shop: str) -> None:
    job = workload("Job", pod(annotations={"sidecar": "classic"}))
    assert "never completes" in kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=job).warnings


def test_applying_a_good_deployment_says_nothing(kubernetes: Cluster, shop: str) -> None:
    good = workload("Deployment", pod())
    assert kubernetes.kubectl("apply", "-n", shop, "-f", "-", stdin=good).stderr == ""


def injected_offline(plain: Object) -> str:
    """What `python -m webhook inject` makes of a pod."""
    command = [sys.executable, "-m", "webhook", "inject", "-f", "-", "--settings", str(SETTINGS)]
    done = subprocess.run(command, cwd=CHECKOUT, input=json.dumps(plain), capture_output=True, text=True, check=True)
    return done.stdout
