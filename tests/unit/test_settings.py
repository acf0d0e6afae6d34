"""The operator's settings: one file, every problem at once, each with its path."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import issue_ca
from certs.bundle import Validity
from tests import build
from webhook import settings
from webhook.errors import SettingsError


def problems(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings.parse(text, "settings.yaml")
    return caught.value.problems


def test_what_is_not_written_has_its_default() -> None:
    assert build.operator("sidecar: {logLevel: info}").sidecar.mode == "redirect"


def test_every_problem_is_reported_at_once_with_its_path() -> None:
    found = problems(
        """
        sidecar: {mode: banana, logLevl: info, resources: {cpuRequest: "2"}}
        redirect: {excludeOutboundPorts: [70000], excludeOutboundCidrs: [10.0.0.1/8]}
        server: {port: 99999}
        """
    )
    paths = sorted(problem.split(":")[0] for problem in found)
    assert paths == [
        "redirect.excludeOutboundCidrs",
        "redirect.excludeOutboundPorts",
        "server.port",
        "sidecar.logLevl",
        "sidecar.mode",
        "sidecar.resources",
    ]


def test_a_misspelt_setting_is_answered_with_the_nearest_right_one() -> None:
    assert problems("sidecar: {logLevl: info}") == ("sidecar.logLevl: no such setting; did you mean logLevel?",)
    assert problems("sidcar: {}") == ("sidcar: no such setting; did you mean sidecar?",)


def test_one_resource_keeps_the_other_defaults() -> None:
    resources = build.operator("sidecar: {resources: {cpuRequest: 200m}}").sidecar.resources
    assert (str(resources.cpu_request), str(resources.memory_limit)) == ("200m", "320Mi")


def test_a_limit_of_null_is_none() -> None:
    assert build.operator("sidecar: {resources: {cpuLimit: null}}").sidecar.resources.cpu_limit is None


@pytest.mark.parametrize("text", ["", "---\n", "[]", "3", "banana"])
def test_a_file_without_a_mapping_is_refused(text: str) -> None:
    assert problems(text) == ("is no mapping; write at least one section, such as `sidecar:`",)


@pytest.mark.parametrize("text", [b"\x00\x01\xff\xfe", b"\xff\xff", b"a: [", b"a: !!python/object:os.system x"])
def test_a_file_that_is_no_yaml_is_refused(text: bytes) -> None:
    (problem,) = problems(text)
    assert problem.startswith("is no YAML")


def test_a_file_of_10_mb_is_refused_unread() -> None:
    assert problems(b"a" * 10_000_000) == ("larger than 1048576 bytes",)


def test_deeply_nested_yaml_is_refused() -> None:
    assert problems("[" * 5000)


def test_an_absent_file_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.load(tmp_path / "absent.yaml")


def test_the_hash_changes_with_what_decides_a_pod() -> None:
    assert build.operator("sidecar: {logLevel: info}").hash != build.DEFAULTS.hash


def test_the_hash_leaves_out_the_server() -> None:
    assert build.operator("server: {port: 9443}").hash == build.DEFAULTS.hash


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from webhook.settings import Settings; print(Settings().hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == build.DEFAULTS.hash


def test_a_key_that_stands_twice_is_refused_by_line() -> None:
    (problem,) = problems("authors: {optOut: denied}\nsidecar: {}\nauthors: {allow: {}}\n")
    assert "authors" in problem
    assert "line 3" in problem


def test_a_bare_off_is_the_word_it_looks_like() -> None:
    sidecar = build.operator("sidecar: {accessLog: off, logLevel: off}").sidecar
    assert (sidecar.access_log, sidecar.log_level) == ("off", "off")


def test_classic_does_not_go_with_mode_none() -> None:
    assert problems("sidecar: {mode: none, form: classic}")[0].endswith("form classic does not go with mode none")


def test_a_port_list_may_hold_ranges() -> None:
    redirect = build.operator("redirect: {excludeInboundPorts: [80, 9000-9010]}").redirect
    assert redirect.exclude_inbound_ports == ((80, 80), (9000, 9010))


CA = issue_ca("collector", Validity.starting(datetime.now(UTC), timedelta(days=1)))


def tracing(**fields: str) -> str:
    return json.dumps({"bootstrap": {"tracing": fields}})


@pytest.mark.parametrize(
    "ca",
    ["", "system", CA.certificate.decode(), f"# ours\n{CA.certificate.decode()}" * 2],
    ids=["none", "system", "one", "two"],  # the certificate in a name would be another one in each of pytest's workers
)
def test_the_collectors_ca_is_certificates_or_those_of_the_image(ca: str) -> None:
    assert build.operator(tracing(ca=ca)).bootstrap.tracing.ca == ca


@pytest.mark.parametrize(
    ("ca", "says"),
    [
        ("/etc/ca.crt", "give certificates in PEM, or system"),
        ("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n", "give certificates in PEM, or system"),
        (CA.certificate.decode() + CA.key.decode(), "holds a private key; give certificates only"),
        (CA.certificate.decode() * 100, "is longer than 65536 bytes"),
        ("\N{SNOWMAN}", "give certificates in PEM, or system"),
    ],
    ids=["path", "torn", "key", "long", "not ASCII"],
)
def test_a_collectors_ca_that_envoy_would_refuse_and_any_key_are_refused(ca: str, says: str) -> None:
    (problem,) = problems(tracing(ca=ca))
    assert problem.startswith("bootstrap.tracing.ca: ")
    assert problem.endswith(f": {says}")


@pytest.mark.parametrize("port", ["0", "65536", "99999", "100000", "x"])
def test_a_collector_has_a_port_that_there_is(port: str) -> None:
    (problem,) = problems(tracing(collector=f"otel:{port}"))
    assert problem.startswith("bootstrap.tracing.collector: ")
