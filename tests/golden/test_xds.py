"""What the proxies of docs/examples/traffic.yaml are told, whole; and Envoy takes it without a warning."""

import json
from pathlib import Path

import pytest

from controlplane.offline import caller, load
from controlplane.xds.annotations import TABLE
from controlplane.xds.mesh import Key
from controlplane.xds.scope import Scope
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from tests import static_form
from tests.cluster import WEB, node, service, slice_of, translated
from tests.goldens import check_golden

EXAMPLE = Path(__file__).parents[2] / "docs/examples/traffic.yaml"
PODS = [("web-1", "namespace"), ("basket-1", "namespace"), ("web-1", "cluster")]


@pytest.mark.envoy
@pytest.mark.parametrize(("pod", "scope"), PODS, ids=[f"{pod}-{scope}" for pod, scope in PODS])
def test_a_proxy_is_told_what_its_golden_file_says_and_envoy_takes_it(tmp_path: Path, pod: str, scope: str) -> None:
    mesh, _ = load(EXAMPLE, Key("shop", pod))
    of = Translated(mesh, Choices(scope=Scope(default="cluster" if scope == "cluster" else "namespace")))
    told = static_form.resources(of, caller(mesh, Key("shop", pod)))
    check_golden(f"xds/{pod}-{scope}.json", json.dumps(told, indent=1) + "\n")
    assert static_form.validate(tmp_path, static_form.configuration(told)) == (0, "")


@pytest.mark.envoy
def test_envoy_takes_a_listener_whose_clusters_come_on_demand(tmp_path: Path) -> None:
    told = static_form.resources(translated(service(), slice_of(), choices=Choices(on_demand=True)), WEB)
    assert told["clusters"] == []
    assert static_form.validate(tmp_path, static_form.configuration(told)) == (0, "")


@pytest.mark.envoy
def test_envoy_takes_every_annotation_of_the_table(tmp_path: Path) -> None:
    objects = [
        service(f"s{number}", annotations={row.name: row.example}, clusterIP=f"10.96.1.{number}")
        for number, row in enumerate(TABLE)
    ]
    of = translated(*objects, *(slice_of(f"s{number}") for number, _ in enumerate(TABLE)))
    assert static_form.validate(tmp_path, static_form.configuration(static_form.resources(of, WEB))) == (0, "")
    assert of.rejected == {}


@pytest.mark.envoy
def test_envoy_takes_what_is_at_the_limits(tmp_path: Path) -> None:
    name, namespace = "a" * 63, "n" * 63
    extremes = {
        "timeout": "24h",
        "retries": "10",
        "max-requests": "10000000",
        "idle-timeout": "off",
        "eject-percent": "0",
    }
    of = translated(
        service(name, namespace, extremes, ports=[1, 65535], clusterIP="fd00::1", clusterIPs=["fd00::1", "10.0.0.1"]),
        slice_of(name, ["fd00::2"], namespace, family="IPv6"),
        service("tcp", namespace, ports=[{"port": 65535, "name": "tcp"}]),
        service("again", namespace, ports=[{"port": 65535, "name": "tcp"}]),
        node("n" * 253, "Z" * 63),
        choices=Choices(scope=Scope(default="cluster")),
    )
    assert static_form.validate(tmp_path, static_form.configuration(static_form.resources(of, WEB))) == (0, "")


@pytest.mark.envoy
def test_a_rule_that_is_checked_here_is_one_that_envoy_checks(tmp_path: Path) -> None:
    of = translated(service())
    told = static_form.resources(of, WEB)
    told["clusters"][0]["outlier_detection"]["max_ejection_percent"] = 101
    code, said = static_form.validate(tmp_path, static_form.configuration(told))
    assert code != 0
    assert "MaxEjectionPercent" in said
