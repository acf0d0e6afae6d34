"""What the rules and the PodMonitor speak of exists: metrics, pods, ports, places in the docs."""

import re

import yaml

from tests.contract.rendered import CHECKOUT, Object, render, selects
from tests.monitoring.pages import metrics
from tests.monitoring.rules import FOLDER, alerts, rules

OURS = re.compile(r"\benvoy_sidecar_(?:webhook|certs|controlplane)_\w+")
RUNBOOKS = "https://github.com/envoy-sidecar-injector/envoy-sidecar-injector/blob/main/docs/operations.md"


def deployments(objects: tuple[Object, ...]) -> list[Object]:
    return [it for it in objects if it["kind"] == "Deployment"]


def test_every_metric_of_ours_in_a_rule_exists() -> None:
    named = {name for rule in rules() for name in OURS.findall(rule["expr"])}
    assert named
    assert named - metrics() == set()


def test_every_process_of_ours_is_scraped_where_it_serves_metrics() -> None:
    monitor = yaml.safe_load((FOLDER / "scrape.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for deployment in deployments(render()):
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert selects(monitor["selector"], template["metadata"]["labels"])
        assert endpoint["port"] in [port["name"] for port in container["ports"]]
        assert monitor["jobLabel"] in template["metadata"]["labels"]


def test_every_alert_leads_to_its_place_in_the_docs() -> None:
    headings = re.findall(r"^### (\w+)$", (CHECKOUT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}#{name.lower()}"


def test_every_alert_says_what_is_wrong_and_how_urgent_it_is() -> None:
    for alert in alerts().values():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
