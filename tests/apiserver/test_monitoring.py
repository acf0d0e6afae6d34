"""The alerts about what an API server counts of us go by what a real one counts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.apiserver.cluster import Cluster
from tests.apiserver.installation import Installation
from tests.apiserver.objects import SIDECAR, init_names, pod
from tests.apiserver.processes import eventually
from tests.monitoring.rules import rules, run

IGNORE = "failure-policy-ignore"


@pytest.fixture(scope="module")
def counted(kubernetes: Cluster, installation: Installation) -> list[Sample]:
    """What the API server counts of webhooks, once ours has been down under either failure policy."""
    with installation.overlay(down=True):
        installation.refused(pod())
    with installation.overlay(IGNORE, down=True):
        eventually(lambda: starts_without_sidecar(installation), "pods start without a sidecar")
    return list(samples(kubernetes.kubectl("get", "--raw", "/metrics").stdout))


def starts_without_sidecar(installation: Installation) -> bool:
    answer = installation.ask(pod())
    return answer.code == 0 and SIDECAR not in init_names(answer.object)


def samples(page: str) -> Iterator[Sample]:
    """Without the types, by which the parser would give counters other names."""
    lines = (line for line in page.splitlines(keepends=True) if line.startswith("apiserver_admission_webhook"))
    for family in text_string_to_metric_families("".join(lines)):
        yield from family.samples


def test_every_metric_of_the_api_server_in_a_rule_exists(counted: list[Sample]) -> None:
    named = {name for rule in rules() for name in re.findall(r"\bapiserver_\w+", rule["expr"])}
    assert named
    assert named - {sample.name for sample in counted} == set()


def test_its_alerts_fire_when_the_webhook_is_down(counted: list[Sample], tmp_path: Path) -> None:
    series = {written(sample): f"0+{sample.value:g}x20" for sample in counted}
    expected = [
        {"labels": f'{{alertname="EnvoySidecar{name}"}}', "value": 1} for name in ("AdmissionFailing", "FailOpen")
    ]
    firing = 'group by (alertname) (ALERTS{alertstate="firing",alertname=~"EnvoySidecar(AdmissionFailing|FailOpen)"})'
    asked = {"expr": firing, "eval_time": "10m", "exp_samples": expected}
    assert run(tmp_path, series, promql_expr_test=[asked]) == ""


def written(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}}"
