"""What holds for each process of ours in the cluster. A process is a package, a Deployment and a ServiceAccount."""

import re
import tomllib

import pytest

import certs
import webhook
from certs.objects import Installation
from tests.contract.rendered import CERTS, CHECKOUT, CONTROLPLANE, NAMESPACE, WEBHOOK, Object, one, pod_spec, render

PROCESSES = (WEBHOOK, CERTS, CONTROLPLANE)
EACH = pytest.mark.parametrize("process", PROCESSES)
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
INSTALLATION = Installation()


def deployment(process: str) -> Object:
    spec: Object = one(render(), "Deployment", process)["spec"]
    return spec


def container(process: str) -> Object:
    (found,) = pod_spec(render(), process)["containers"]
    assert isinstance(found, dict)
    return found


def secrets(process: str) -> dict[str, list[str] | None]:
    """The Secrets that a process mounts or reads into its environment, and which keys of each; None: all."""
    spec = pod_spec(render(), process)
    sources = [volume["secret"] for volume in spec.get("volumes", []) if "secret" in volume]
    mounted: dict[str, list[str] | None] = {
        source["secretName"]: [item["key"] for item in source["items"]] if "items" in source else None
        for source in sources
    }
    others = [volume for volume in spec.get("volumes", []) if "projected" in volume or "csi" in volume]
    assert others == []
    assert not {"env", "envFrom"} & set(container(process))
    return mounted


def test_these_are_all_the_processes() -> None:
    assert {it["metadata"]["name"] for it in render() if it["kind"] == "Deployment"} == set(PROCESSES)


def test_nobody_mounts_the_ca() -> None:
    assert INSTALLATION.authority.name not in {name for process in PROCESSES for name in secrets(process)}


@pytest.mark.parametrize("server", [WEBHOOK, CONTROLPLANE])
def test_a_server_mounts_its_own_certificate_and_key_and_nothing_else_of_a_secret(server: str) -> None:
    assert secrets(server) == {f"{server}-tls": ["tls.crt", "tls.key"]}
    assert f"{server}-tls" in {leaf.name for leaf in INSTALLATION.leaves}


def test_no_other_mounts_a_secret() -> None:
    assert secrets(CERTS) == {}


@EACH
def test_a_process_runs_as_its_own_account(process: str) -> None:
    account = one(render(), "ServiceAccount", process)
    assert pod_spec(render(), process)["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False


@EACH
def test_rule_27_a_rollout_and_a_drain_leave_a_replica(process: str) -> None:
    budget = one(render(), "PodDisruptionBudget", process)["spec"]
    assert deployment(process)["replicas"] > budget["maxUnavailable"]


@EACH
def test_budget_network_policy_and_spread_speak_of_its_pods(process: str) -> None:
    labels = deployment(process)["template"]["metadata"]["labels"]
    assert deployment(process)["selector"]["matchLabels"] == labels
    assert one(render(), "PodDisruptionBudget", process)["spec"]["selector"]["matchLabels"] == labels
    assert one(render(), "NetworkPolicy", process)["spec"]["podSelector"]["matchLabels"] == labels
    spread = pod_spec(render(), process)["topologySpreadConstraints"]
    assert {constraint["labelSelector"]["matchLabels"] == labels for constraint in spread} == {True}


@EACH
def test_scrapers_find_the_metrics_and_only_some_may_ask(process: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(process)["ports"]}
    annotations = deployment(process)["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    rules = one(render(), "NetworkPolicy", process)["spec"]["ingress"]
    (rule,) = [it for it in rules if it["ports"][0]["port"] == "metrics"]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": labels}}
        for labels in ({"kubernetes.io/metadata.name": "monitoring"}, {"envoy-sidecar.io/scrapes": "true"})
    ]


@EACH
def test_a_probe_names_a_port_of_the_container(process: str) -> None:
    names = {port["name"] for port in container(process)["ports"]}
    assert {container(process)[probe]["httpGet"]["port"] for probe in PROBES} <= names


@EACH
def test_a_process_writes_nowhere_and_gains_nothing(process: str) -> None:
    assert container(process)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod_spec(render(), process)["securityContext"]["runAsNonRoot"] is True


def test_the_image_names_a_numeric_user_as_run_as_non_root_needs() -> None:
    _, _, server = (CHECKOUT / "Dockerfile").read_text().partition("AS server\n")
    assert re.search(r"^USER [1-9]\d*(:[1-9]\d*)?$", server, re.MULTILINE)
    assert 'ENTRYPOINT ["python", "-m"]' in server


@EACH
def test_images_are_of_this_release(process: str) -> None:
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert webhook.__version__ == certs.__version__ == version
    assert container(process)["image"].endswith(f"/server:{version}")


def test_everything_of_ours_is_in_our_namespace_or_in_none() -> None:
    assert {it["metadata"].get("namespace", NAMESPACE) for it in render()} == {NAMESPACE}
