"""The real Envoy accepts the bootstrap, alone and with what a pod lays over it, and warns of nothing."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from controlplane import discovery
from controlplane.bootstrap import AccessLog, Bootstrap, overlay, render
from tests import envoy, mounted
from webhook.probes import MAX_PORTS

pytestmark = pytest.mark.envoy

FILES = render(Bootstrap())
UPGRADES = ("h2c", "TLS/1.0", "WebSocket", "h2c", "CONNECT")
UNUSUAL = render(Bootstrap(max_connections=1, connect_timeout_seconds=3600, upgrades=UPGRADES, ip_families="ipv4"))


def validate(folder: Path, bootstrap: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "bootstrap.json").write_text(bootstrap)
    command = [str(envoy.binary()), "--mode", "validate", "--log-level", "warning", "-c", "bootstrap.json"]
    return subprocess.run([*command, *arguments], cwd=folder, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("text", [*FILES.values(), *UNUSUAL.values()], ids=[*FILES, *(f"unusual-{n}" for n in UNUSUAL)])
def test_envoy_accepts_it_without_a_warning(tmp_path: Path, text: str) -> None:
    validated = validate(tmp_path, text)
    assert validated.returncode == 0
    assert validated.stderr == ""  # where deprecated and unknown fields are named


@pytest.mark.parametrize("name", FILES)
def test_envoy_accepts_it_with_a_control_plane(tmp_path: Path, name: str) -> None:
    place = f"{tmp_path}/mounted"
    for directory in (discovery.FILES, discovery.TRUST, discovery.TOKEN):
        Path(place + directory).mkdir(parents=True)
    mounted.renew(Path(place + discovery.TRUST))
    mounted.write(Path(place + discovery.TOKEN), {"token": b"abc"})
    files = {
        file: re.sub(r'"(?=/etc/|/var/)', f'"{place}', text)
        for file, text in render(Bootstrap(control_plane="controlplane.mesh:15012")).items()
    }
    for file in ("ca.json", "token.json"):
        (Path(place + discovery.FILES) / file).write_text(files[file])
    validated = validate(tmp_path, files[name], "--service-node", "web-1.shop", "--service-cluster", "web")
    assert (validated.returncode, validated.stderr) == (0, "")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("choice", ["off", "errors", "all"])
def test_envoy_accepts_it_with_the_overlay_of_a_pod(tmp_path: Path, name: str, choice: AccessLog) -> None:
    laid_over = overlay(node_metadata={"namespace": "shop", "upstreams": "a,b"}, access_log=choice)
    validated = validate(tmp_path, FILES[name], "--config-yaml", json.dumps(laid_over))
    assert (validated.returncode, validated.stderr) == (0, "")


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_envoy_accepts_the_listener_for_tcp_probes(tmp_path: Path, address: str) -> None:
    probes = {f"/tcp/{port}": port for port in range(1, MAX_PORTS + 1)}
    laid_over = json.dumps(overlay(node_metadata={}, access_log="off", tcp_probes=probes, tcp_probe_seconds=3600))
    kubelets = laid_over.replace("$(POD_IP)", address)
    validated = validate(tmp_path, FILES["bootstrap-dual.json"], "--config-yaml", kubelets)
    assert (validated.returncode, validated.stderr) == (0, "")


def test_a_deprecated_field_would_be_seen(tmp_path: Path) -> None:
    document = json.loads(FILES["bootstrap-ipv4.json"])
    document["static_resources"]["clusters"][0]["http2_protocol_options"] = {}
    assert "deprecated" in validate(tmp_path, json.dumps(document)).stderr
