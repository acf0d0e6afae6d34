"""The rules of manifests/components as Prometheus reads them, the dashboard's panels, and promtool to try them."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import needs
from tests.contract.rendered import MANIFESTS

Object = dict[str, Any]
FOLDERS = PROCESSES, SERVICES = [MANIFESTS / "components" / name for name in ("monitoring", "service-monitoring")]
FILES = [
    folder / name
    for folder in FOLDERS
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    if name.endswith("-rules.yaml")
]
DASHBOARD: Object = json.loads((MANIFESTS / "components" / "dashboards" / "envoy-sidecar.json").read_text())
# Labels of Envoy's, which look like metrics.
LABELS = {"envoy_cluster_name", "envoy_endpoint_address", "envoy_http_conn_manager_prefix", "envoy_response_code_class"}


def groups(file: Path) -> Object:
    """A PrometheusRule's `spec`, which is a whole rule file of Prometheus."""
    spec: Object = yaml.safe_load(file.read_text())["spec"]
    return spec


def rules() -> Iterator[Object]:
    """Every rule of every group: alerts and recordings."""
    for file in FILES:
        for group in groups(file)["groups"]:
            yield from group["rules"]


def alerts() -> dict[str, Object]:
    """Every alert by its name."""
    named = [rule for rule in rules() if "alert" in rule]
    return {rule["alert"]: rule for rule in named}


def panels() -> dict[str, list[str]]:
    """The expressions of each panel by its title, for all namespaces and Services."""
    return {
        panel["title"]: [re.sub(r"\$(namespace|service)", ".+", target["expr"]) for target in panel.get("targets", [])]
        for panel in DASHBOARD["panels"]
        if panel["type"] != "row"
    }


def expressions() -> list[str]:
    """What rules and panels ask of Prometheus."""
    return [*(rule["expr"] for rule in rules()), *(one for found in panels().values() for one in found)]


def of_envoy() -> set[str]:
    """The metrics of Envoy's that rules and panels speak of."""
    return {name for one in expressions() for name in re.findall(r"\benvoy_(?!sidecar)\w+", one)} - LABELS


def kept() -> set[str]:
    """Those that Prometheus is told to keep."""
    monitors = yaml.safe_load_all((SERVICES / "scrape.yaml").read_text())
    endpoints = [endpoint for monitor in monitors for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    keeping = [rule for one in endpoints for rule in one.get("metricRelabelings", []) if rule["action"] == "keep"]
    return {name for rule in keeping for name in rule["regex"].split("|")}


def write(directory: Path) -> list[str]:
    """Puts the rule files into `directory`, and returns their names."""
    for file in FILES:
        (directory / file.name).write_text(yaml.safe_dump(groups(file)))
    return [file.name for file in FILES]


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What promtool says, both streams together."""
    program = needs.binary("promtool", "apt install prometheus, or put Prometheus' promtool on PATH")
    return subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
    )


def run(directory: Path, series: Mapping[str, str], **asked: Sequence[Object]) -> str:
    """Lets the rules see these series, a sample each minute, and asks what promtool's test files can ask.

    Returns what promtool says against it: nothing, if all is as expected.
    """
    test: Object = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        **asked,
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": write(directory), "evaluation_interval": "1m", "tests": [test]}))
    done = promtool("test", "rules", str(file))
    return "" if done.returncode == 0 else done.stdout
