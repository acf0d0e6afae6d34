"""The rules of manifests/components/monitoring as Prometheus reads them, and promtool to try them."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import needs
from tests.contract.rendered import MANIFESTS

FOLDER = MANIFESTS / "components" / "monitoring"
RESOURCES: list[str] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
FILES = [FOLDER / name for name in RESOURCES if name.endswith("-rules.yaml")]
Object = dict[str, Any]


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
