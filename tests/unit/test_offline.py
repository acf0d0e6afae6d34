"""The commands that need no cluster: what goes in, what comes out, what is said, and the exit code."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import build
from webhook import documents, explain, offline, settings
from webhook.__main__ import main
from webhook.injection import Injected
from webhook.offline import Report
from webhook.policy import Level

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"

SERVICE = "apiVersion: v1   # kept\nkind: Service\nmetadata: {name: &n web, labels: {app: *n}}\n"
BAD = {"log-level": "banana"}


def workload(kind: str = "Deployment", api_version: str = "apps/v1", **pod: Any) -> build.Document:
    """A workload called shop/web; the rest is `build.pod`'s."""
    document = build.pod(**pod)
    metadata = {key: value for key, value in document["metadata"].items() if key in ("labels", "annotations")}
    template = {"metadata": metadata, "spec": document["spec"]}
    spec: build.Document = {"template": template}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


WORKLOADS = [
    workload(),
    workload("StatefulSet"),
    workload("DaemonSet"),
    workload("ReplicaSet"),
    workload("Job", "batch/v1"),
    workload("CronJob", "batch/v1"),
]


def examine(*parts: build.Document | str, level: Level = "privileged") -> Report:
    texts = [part if isinstance(part, str) else documents.to_yaml(part) for part in parts]
    return offline.examine("---\n".join(texts), "in.yaml", level, build.DEFAULTS)


def template_of(document: build.Document) -> build.Document:
    spec = document["spec"].get("jobTemplate", document)["spec"]
    template: build.Document = spec["template"]
    return template


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def stdin(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


# What comes out


@pytest.mark.parametrize("document", WORKLOADS, ids=lambda document: document["kind"])
def test_the_template_of_a_workload_becomes_what_its_pod_would(document: build.Document) -> None:
    (after,) = yaml.safe_load_all(examine(document).stream)
    pod = build.injected(build.pod(labels={"app": "web"}))  # `app` names the service as the owner does

    assert template_of(after)["spec"] == pod["spec"]
    assert template_of(after)["metadata"]["annotations"] == pod["metadata"]["annotations"]
    assert template_of(after)["metadata"]["labels"] == {"envoy-sidecar.io/injected": "true"}


@pytest.mark.parametrize("document", WORKLOADS, ids=lambda document: document["kind"])
def test_nothing_but_the_template_of_a_workload_changes(document: build.Document) -> None:
    (after,) = yaml.safe_load_all(examine(document).stream)
    template_of(after).clear()
    template_of(before := json.loads(json.dumps(document))).clear()

    assert after == before


def test_a_pod_becomes_what_the_api_server_would_store() -> None:
    (after,) = yaml.safe_load_all(examine(build.pod()).stream)

    assert after == build.injected(build.pod())


def test_every_workload_in_a_list_gets_its_sidecar() -> None:
    service = yaml.safe_load(SERVICE)
    inner = {"apiVersion": "v1", "kind": "List", "items": [workload()]}
    report = examine({"apiVersion": "v1", "kind": "List", "items": [build.pod(), service, inner]})
    (after,) = yaml.safe_load_all(report.stream)

    assert after["items"][0] == build.injected(build.pod())
    assert after["items"][1] == service
    assert build.named(template_of(after["items"][2]["items"][0])["spec"]["initContainers"], "envoy-sidecar")
    assert [finding.where for finding in report.findings] == [
        "in.yaml:1: document 1, items[0]",
        "in.yaml:1: document 1, items[2].items[0]",
    ]


def test_documents_without_a_sidecar_come_out_byte_for_byte_and_in_order() -> None:
    skipped = (
        "# why\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: on, containers: [{name: a}]}\n"
    )
    report = examine(SERVICE, skipped, build.pod(), "# nothing\n", SERVICE)

    assert report.stream.startswith(f"{SERVICE}---\n{skipped}---\napiVersion: v1\nkind: Pod\n")
    assert report.stream.endswith(f"---\n# nothing\n---\n{SERVICE}")


def test_a_template_without_metadata_gets_some() -> None:
    document = workload()
    del document["spec"]["template"]["metadata"]
    (after,) = yaml.safe_load_all(examine(document).stream)

    assert after["spec"]["template"]["metadata"]["labels"] == {"envoy-sidecar.io/injected": "true"}


def test_keys_keep_their_order() -> None:
    document = {"kind": "Pod", "spec": build.pod()["spec"], "metadata": {"name": "p"}, "apiVersion": "v1"}
    (after,) = yaml.safe_load_all(examine(document).stream)

    assert list(after) == ["kind", "spec", "metadata", "apiVersion"]


def test_the_rules_stand_readable_in_the_output() -> None:
    assert "value: |\n            *nat\n" in examine(workload()).stream


def test_a_second_pass_changes_nothing() -> None:
    once = examine(*WORKLOADS, SERVICE).stream

    assert examine(once).stream == once


@pytest.mark.parametrize("trap", ["on", "1e3", "0777", "2024-01-01", "~", "null", "y", "08", "1_0", "=", "a: b"])
def test_an_annotation_that_yaml_may_misread_is_the_same_afterwards(trap: str) -> None:
    after = examine(build.pod({"example.com/trap": trap})).stream

    assert yaml.safe_load(after)["metadata"]["annotations"]["example.com/trap"] == trap
    assert documents.load(documents.Document(1, 1, after))["metadata"]["annotations"]["example.com/trap"] == trap


# What is said


def test_a_rejection_names_file_line_document_workload_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(f"{SERVICE}---\n# bad\n{documents.to_yaml(workload(annotations=BAD))}")
    code, out, err = run(capsys, "inject", "-f", file)

    assert (code, out) == (1, "")
    assert f"{file}:6: document 2: Deployment shop/web: rejected (bad_annotation)" in err
    assert 'spec.template: envoy-sidecar.io/log-level: "banana": use one of' in err


def test_one_rejection_keeps_the_whole_stream_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(documents.to_yaml(build.pod()) + "---\n" + documents.to_yaml(build.pod(BAD)))
    code, out, err = run(capsys, "inject", "-f", file)

    assert (code, out) == (1, "")
    assert "nothing was written" in err


def test_warnings_are_told_beside_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(documents.to_yaml(workload("Job", "batch/v1", annotations={"sidecar": "classic"})))
    code, out, err = run(capsys, "inject", "-f", file)

    assert code == 0
    assert "kind: Job" in out
    assert "warning: a classic sidecar outlives the Job's containers" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod\napiVersion: v1\nmetadata: {}\n", "in.yaml:1: document 1: Pod (no name): the object is no Pod"),
        ("kind: Pod\napiVersion: v1\nmetadata: {}\nspec: {containers: {}}\n", "$.spec.containers"),
        ("kind: Job\napiVersion: batch/v1\nspec: [1]\n", "Job (no name): spec.template: spec:"),
        ("kind: Pod\napiVersion: v1\nmetadata: {labels: {a: 1}}\nspec: {containers: []}\n", "$.metadata.labels"),
        ("a: 1\n---\nb: 1\nb: 2\n", 'in.yaml:4: document 2 has the key "b" twice in one mapping'),
        ("a: 1\n---\nb: [\n", "document 2 is no YAML"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_place(text: str, said: str) -> None:
    report = examine(text)

    assert report.exit_code == 2
    assert said in "\n".join(report.problems)


def test_every_unreadable_workload_is_told() -> None:
    broken = "kind: Pod\napiVersion: v1\nmetadata: {}\nspec: {containers: 1}\n"

    assert len(examine(broken, SERVICE, broken).problems) == 2


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "[]\n", "text\n", "42\n", "kind: []\n"])
def test_a_stream_without_workloads_passes_through(text: str) -> None:
    report = examine(text)

    assert (report.stream, report.exit_code, report.findings) == (text, 0, ())


def test_the_level_of_pod_security_decides() -> None:
    assert examine(workload(), level="restricted").exit_code == 1
    assert examine(workload(annotations={"mode": "none"}), level="restricted").exit_code == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A workload in which something, somewhere, is something else."""
    annotations = {"exclude-inbound-ports": "80", "mode": draw(st.sampled_from(["none", "redirect", "tproxy"]))}
    whole = json.loads(json.dumps(draw(st.sampled_from([*WORKLOADS, build.pod(annotations, {"a": "b"})]))))
    place: Any = {"document": whole}
    document, key = place, "document"
    while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 9)):
        place = place[key]
        key = draw(st.sampled_from([*place] if isinstance(place, dict) else range(len(place))))
    place[key] = draw(json_values)
    return document["document"]


@given(damaged())
@hypothesis.settings(max_examples=300, deadline=None)
def test_a_workload_of_any_shape_is_injected_or_told_about(document: Any) -> None:
    report = examine(document)

    assert report.exit_code in (0, 1, 2)
    if report.exit_code == 0:
        assert examine(report.stream).stream == report.stream, "a second pass changes nothing"


# Input


@pytest.mark.parametrize("command", ["inject", "explain"])
def test_a_missing_file_is_exit_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, command, "-f", "absent.yaml")

    assert (code, out) == (2, "")
    assert err == "absent.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("command", ["inject", "explain"])
def test_what_is_no_text_is_exit_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, b"a: 1\n\xff")
    code, _, err = run(capsys, command, "-f", "-")

    assert code == 2
    assert err == "stdin: is no UTF-8 from byte 6 on\n"


@pytest.mark.parametrize("command", ["inject", "explain"])
def test_wrong_settings_are_exit_2(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text("sidecar: {mode: banana}\n")
    code, out, err = run(capsys, command, "-f", EXAMPLES / "web.yaml", "--settings", tmp_path / "settings.yaml")

    assert (code, out) == (2, "")
    assert "sidecar.mode" in err


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(monkeypatch, documents.to_yaml(build.pod()).encode())
    code, out, err = run(capsys, "inject", "-f", "-")

    assert code == 0
    assert yaml.safe_load(out) == build.injected(build.pod())
    assert err == "stdin:1: document 1: Pod shop/web-1: injected (added): the pod gets a sidecar\n"


def test_a_pipe_that_closes_early_is_no_crash() -> None:
    command = f"{sys.executable} -m webhook inject -f docs/examples/web.yaml | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["inject"], ["inject", "-f", "x", "--pod-security", "high"], ["settings"]])
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


# explain


def explained(*parts: build.Document | str, by: settings.Settings = build.DEFAULTS) -> str:
    report = offline.examine("---\n".join(documents.to_yaml(part) for part in parts), "in.yaml", "privileged", by)
    return "\n".join(explain.full(finding, by) for finding in report.findings)


def row(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"  {name} "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_explain_says_where_each_value_came_from() -> None:
    by = build.operator("sidecar: {accessLog: all}\nredirect: {excludeInboundPorts: [9000]}\n")
    annotations = {"cpu-limit": "250m", "memory-request": "50%", "exclude-inbound-ports": "8080"}
    container = build.container(resources={"requests": {"memory": "100Mi"}}, ports=[{"containerPort": 8080}])
    text = explained(build.pod(annotations, containers=[container]), by=by)

    assert row(text, "cpu-limit") == ["cpu-limit", "250m", "annotation"]
    assert row(text, "memory-request") == ["memory-request", "50Mi", "annotation: 50%"]
    assert row(text, "exclude-inbound-ports") == [
        "exclude-inbound-ports",
        "8080,9000",
        "annotation: 8080, with redirect.excludeInboundPorts",
    ]
    assert row(text, "access-log") == ["access-log", "all", "operator: sidecar.accessLog"]
    assert row(text, "mode") == ["mode", "redirect", "built in: sidecar.mode"]


def test_explain_lists_what_the_author_set_first() -> None:
    text = explained(build.pod({"log-level": "debug"}))

    assert text.splitlines()[5].split()[0] == "log-level"


def test_explain_gives_the_reason_of_a_skip() -> None:
    text = explained(workload(hostNetwork=True))

    assert "skipped (host_network): the pod uses the host's network" in text
    assert "ANNOTATION" not in text


def test_explain_gives_every_problem_of_a_rejection() -> None:
    text = explained(workload(annotations={"log-level": "banana", "cpu-limit": "-1"}))

    assert "rejected (bad_annotation)" in text
    assert '- spec.template: envoy-sidecar.io/cpu-limit: "-1"' in text
    assert '- spec.template: envoy-sidecar.io/log-level: "banana"' in text


def test_explain_gives_every_warning() -> None:
    text = explained(workload(annotations={"log-levle": "debug"}))

    assert "did you mean envoy-sidecar.io/log-level?" in " ".join(text.split())


def test_explain_says_that_a_pod_has_its_sidecar_already() -> None:
    assert "unchanged (up_to_date): the pod already is exactly" in explained(build.injected(build.pod()))


def test_explain_says_that_a_sidecar_is_repaired() -> None:
    stale = build.injected(build.pod())
    build.sidecar_of(stale)["image"] = "registry.example/envoy:old"

    assert "injected (repaired): the pod already holds parts of ours" in explained(stale)


def test_explain_counts_at_the_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(
        "---\n".join(documents.to_yaml(d) for d in (build.pod(), build.pod(BAD), workload(hostNetwork=True)))
    )
    code, out, _ = run(capsys, "explain", "-f", file)

    assert code == 1
    assert out.endswith("3 workloads: 1 injected, 1 rejected, 1 skipped\n")


# settings check


def test_settings_check_says_ok_with_the_hash_and_what_is_in_effect(capsys: pytest.CaptureFixture[str]) -> None:
    file = EXAMPLES / "settings.yaml"
    code, out, _ = run(capsys, "settings", "check", file)
    first, _, shown = out.partition("\n")

    assert code == 0
    assert first.startswith("ok: ")
    assert settings.load(file).hash in first
    assert settings.parse(shown, "shown").hash == settings.load(file).hash


@pytest.mark.parametrize(
    "text",
    [
        "sidecar: {resources: {cpuLimit: null}}",
        "redirect: {excludeInboundPorts: [80, 8000-8010], excludeOutboundCidrs: [10.0.0.0/8, 'fd00::/8']}",
        "authors: {allow: {image: true, log-level: [debug]}}",
    ],
)
def test_what_settings_check_shows_can_be_written_back(text: str) -> None:
    by = build.operator(text)

    assert build.operator(documents.to_yaml(explain.effective(by))).hash == by.hash


def test_settings_check_prints_every_problem_with_its_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("sidecar: {mode: banana, concurrency: 0}\nserver: {prt: 1}\n")
    code, out, err = run(capsys, "settings", "check", tmp_path / "bad.yaml")

    assert (code, out) == (2, "")
    assert all(path in err for path in ("sidecar.mode", "sidecar.concurrency", "server.prt"))


def test_settings_check_of_an_absent_file_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "settings", "check", "absent.yaml")[0] == 2


def test_offline_applies_exactly_the_patch_of_the_webhook() -> None:
    (finding,) = examine(workload()).findings

    assert isinstance(finding.outcome, Injected)
    assert json.loads(finding.outcome.patch)
