"""The bootstrap ConfigMap: its name says its content, and the command that prints it says what is wrong."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.__main__ import main
from controlplane.bootstrap import PORTS, Bootstrap, config_map, config_map_name, overlay, render
from controlplane.ports import MARK
from controlplane.tracing import Tracing
from webhook import redirect

DEFAULT = Bootstrap()
FED = Bootstrap(control_plane="controlplane.mesh:15012")
TRACED = Tracing(collector="otel.observability:4317")


def document(name: str, bootstrap: Bootstrap = DEFAULT) -> dict[str, Any]:
    return dict(json.loads(render(bootstrap)[f"bootstrap-{name}.json"]))


def addresses(listener: dict[str, Any]) -> list[str]:
    every = [listener, *listener.get("additional_addresses", [])]
    return [each["address"]["socket_address"]["address"] for each in every]


def test_every_listener_of_the_dual_variant_has_both_families() -> None:
    listeners = document("dual")["static_resources"]["listeners"]
    assert all(addresses(listener) == ["0.0.0.0", "::"] for listener in listeners)


def test_the_ipv4_variants_name_no_ipv6_address() -> None:
    files = render(replace(DEFAULT, ip_families="ipv4"))
    assert [name for name in ("ipv4", "ipv4-tproxy", "none") if "::" in files[f"bootstrap-{name}.json"]] == []


def test_the_mark_is_the_one_that_the_rules_and_the_script_know() -> None:
    assert int(redirect.MARK, 16) == MARK
    assert f"mark={redirect.MARK} " in (Path(redirect.__file__).parent / "redirect.sh").read_text()


@pytest.mark.parametrize("name", ["outbound", "inbound", "opaque-outbound", "opaque-inbound"])
def test_every_redirecting_listener_refuses_every_redirecting_port(name: str) -> None:
    listener = next(each for each in document("dual")["static_resources"]["listeners"] if each["name"] == name)
    guards = [chain for chain in listener["filter_chains"] if chain["name"].startswith("loop-guard")]
    assert [guard["filter_chain_match"]["destination_port"] for guard in guards] == list(PORTS.redirecting)
    assert all(guard["filters"][0]["typed_config"]["cluster"] == "blackhole" for guard in guards)


def test_the_admin_interface_is_a_socket_of_its_owner_alone() -> None:
    assert document("dual")["admin"]["address"] == {"pipe": {"path": "/run/envoy-sidecar/admin.sock", "mode": 0o600}}


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_name_is_the_same_in_every_process(seed: str) -> None:
    program = "from controlplane.bootstrap import *; print(config_map_name(Bootstrap()))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=True
    )
    assert printed.stdout.strip() == config_map_name(DEFAULT)


@pytest.mark.parametrize(
    "change",
    [
        {"max_connections": 1},
        {"connect_timeout_seconds": 1},
        {"upgrades": ("h2c",)},
        {"tracing": TRACED},
        {"control_plane": "controlplane.mesh:15012"},
        {"ip_families": "ipv4"},
    ],
    ids=str,
)
def test_the_name_changes_with_the_content(change: dict[str, Any]) -> None:
    assert config_map_name(replace(DEFAULT, **change)) != config_map_name(DEFAULT)


def test_the_config_map_is_immutable_and_fits() -> None:
    made = config_map(DEFAULT, "shop")
    assert made["immutable"] is True
    assert made["metadata"]["namespace"] == "shop"
    assert len(json.dumps(made)) < 1 << 20


def test_without_a_control_plane_nothing_is_asked_of_one() -> None:
    assert "dynamic_resources" not in document("dual")
    assert [name for name in render(DEFAULT) if not name.startswith("bootstrap-")] == []


@pytest.mark.parametrize("name", ["dual", "ipv4", "dual-tproxy", "ipv4-tproxy"])
def test_with_one_every_variant_asks_it(name: str) -> None:
    made = document(name, FED)
    assert made["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert made["static_resources"]["clusters"][-1]["name"] == "controlplane"


def test_a_pod_in_mode_none_asks_none_and_takes_no_connections_from_elsewhere() -> None:
    made = document("none", FED)
    assert "dynamic_resources" not in made
    assert "controlplane" not in [cluster["name"] for cluster in made["static_resources"]["clusters"]]
    explicit, *pages = made["static_resources"]["listeners"]
    assert addresses(explicit) == ["127.0.0.1", "::1"]
    assert [page["name"] for page in pages] == ["metrics", "ready"]


def test_the_pods_without_ipv6_ask_for_no_ipv6_address_of_the_control_plane() -> None:
    families = {
        name: document(name, FED)["static_resources"]["clusters"][-1]["cluster_type"]["typed_config"][
            "dns_lookup_family"
        ]
        for name in ("dual", "ipv4")
    }
    assert families == {"dual": "ALL", "ipv4": "V4_ONLY"}


def test_the_overlay_adds_to_the_runtime_and_replaces_nothing() -> None:
    laid_over = overlay(node_metadata={"namespace": "$(POD_NAMESPACE)"}, access_log="off")
    assert laid_over == {
        "node": {"metadata": {"namespace": "$(POD_NAMESPACE)"}},
        "layered_runtime": {
            "layers": [
                {
                    "name": "pod",
                    "static_layer": {"envoy_sidecar.access_log.errors": 0, "envoy_sidecar.access_log.all": 0},
                }
            ]
        },
    }


# The command


def test_the_command_prints_the_config_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "--namespace", "shop"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == config_map(DEFAULT, "shop")


def test_the_command_reads_its_section_of_the_settings_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("sidecar: {anything: goes}\nbootstrap: {maxConnections: 7, upgrades: [h2c]}\n")
    assert main(["bootstrap", "--namespace", "shop", "--settings", str(settings)]) == 0
    wanted = Bootstrap(max_connections=7, upgrades=("h2c",))
    assert yaml.safe_load(capsys.readouterr().out) == config_map(wanted, "shop")


def test_the_command_names_every_problem_with_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("bootstrap: {maxConnections: 0, ipFamilies: ipv6, upgrade: []}\n")
    assert main(["bootstrap", "--namespace", "shop", "--settings", str(settings)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{settings}: bootstrap.ipFamilies: 'ipv6': input should be 'dual' or 'ipv4'",
        f"{settings}: bootstrap.maxConnections: 0: input should be greater than or equal to 1",
        f"{settings}: bootstrap.upgrade: no such setting; there are"
        " ipFamilies, maxConnections, connectTimeoutSeconds, upgrades, tracing, controlPlane",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no mapping"),
        (b"- a\n", "is no mapping"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"a: [", "is no YAML"),
        (b"[" * 10_000, "is no YAML"),
        (b"bootstrap: 7", "bootstrap: 7: "),
    ],
    ids=["empty", "list", "binary", "torn", "nested", "scalar"],
)
def test_a_file_that_is_no_settings_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_bytes(content)
    assert main(["bootstrap", "--namespace", "shop", "--settings", str(settings)]) == 2
    assert f"{settings}: {says}" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "--namespace", "shop", "--settings", "/absent.yaml"]) == 2
    assert capsys.readouterr().err == "/absent.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("namespace", ["", "Shop", "a.b", "-a", "a-", "a" * 64])
def test_what_is_no_namespace_is_refused(namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bootstrap", f"--namespace={namespace}"])
    assert "is no namespace" in capsys.readouterr().err


def test_the_example_of_the_help_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["bootstrap", "--help"])
    (example,) = (line for line in capsys.readouterr().out.splitlines() if " | kubectl" in line)
    arguments = example.split("python -m controlplane ")[1].split(" | ")[0].split()
    assert main(arguments) == 0
