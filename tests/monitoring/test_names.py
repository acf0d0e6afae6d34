"""What the rules and the PodMonitor speak of exists: metrics, pods, ports, places in the docs."""

import json
import re

import yaml

from tests.build import injected, pod
from tests.contract.rendered import CHECKOUT, CONTROLPLANE, Object, one, render, selects
from tests.monitoring.pages import metrics
from tests.monitoring.rules import PROCESSES, SERVICES, alerts, expressions, kept, of_envoy, panels, rules

OURS = re.compile(r"\benvoy_sidecar_(?:webhook|certs|controlplane)_\w+")
RUNBOOKS = "https://github.com/envoy-sidecar-injector/envoy-sidecar-injector/blob/main/docs/operations.md"


def deployments(objects: tuple[Object, ...]) -> list[Object]:
    return [it for it in objects if it["kind"] == "Deployment"]


def test_every_metric_of_ours_in_a_rule_exists() -> None:
    named = {name for expression in expressions() for name in OURS.findall(expression)}
    assert named
    assert named - metrics() == set()


def test_every_process_of_ours_is_scraped_where_it_serves_metrics() -> None:
    monitor = yaml.safe_load((PROCESSES / "scrape.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for deployment in deployments(render()):
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert selects(monitor["selector"], template["metadata"]["labels"])
        assert endpoint["port"] in [port["name"] for port in container["ports"]]
        assert monitor["jobLabel"] in template["metadata"]["labels"]


def test_what_is_recorded_and_nothing_else_is_asked_for() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for one in expressions() for name in re.findall(r"\b[a-z_]+:envoy_sidecar_[\w:]+", one)}
    assert asked
    assert asked - recorded == set()


def test_no_panel_asks_for_nothing() -> None:
    assert all(panels().values())


def test_what_rules_and_panels_need_of_envoy_is_kept() -> None:
    assert of_envoy() - kept() == set()


def test_every_sidecar_is_scraped_where_it_serves_metrics() -> None:
    sidecars, names = yaml.safe_load_all((SERVICES / "scrape.yaml").read_text())
    stored = injected(pod())
    ports = {port["name"] for container in stored["spec"]["initContainers"] for port in container.get("ports", [])}
    assert {endpoint["port"] for endpoint in sidecars["spec"]["podMetricsEndpoints"]} == ports
    assert selects(sidecars["spec"]["selector"], stored["metadata"]["labels"])
    template = one(render(), "Deployment", CONTROLPLANE)["spec"]["template"]
    assert selects(names["spec"]["selector"], template["metadata"]["labels"])


def test_grafana_finds_the_dashboard_by_its_label() -> None:
    found = one(render("dashboards"), "ConfigMap", "envoy-sidecar-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["envoy-sidecar.json"])["uid"] == "envoy-sidecar"


def test_every_alert_leads_to_its_place_in_the_docs() -> None:
    headings = re.findall(r"^### (\w+)$", (CHECKOUT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}#{name.lower()}"


def test_every_alert_says_what_is_wrong_and_how_urgent_it_is() -> None:
    for alert in alerts().values():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
