"""README and docs say what is: tables come from the code, commands run, and what they print is what stands there.

A fence `console` holds commands after `$` and what they print; `…` stands for what may be different tomorrow.
`scripts/golden` writes tables and outputs anew. Fences `sh` need a cluster or much time; what they name must exist.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs, reference
from tests.monitoring.pages import metrics
from webhook import explain
from webhook.__main__ import CHECK, EXPLAIN, INJECT, SETTINGS, main
from webhook.annotations import TABLE
from webhook.policy import RejectReason, SkipReason

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROCESSES = ("webhook", "certs", "controlplane")
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))

TABLES: dict[str, Callable[[], str]] = {
    "annotations": reference.annotations,
    "service-annotations": reference.service_annotations,
    "settings": reference.setting_table,
    "skips": reference.skips,
    "rejections": reference.rejections,
    "alerts": reference.alert_table,
    "limits": reference.limit_table,
    "access-log": reference.log_table,
}
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def page_with(marker: str) -> Path:
    (page,) = (page for page in PAGES if marker in page.read_text())
    return page


def shell(command: str, directory: Path) -> str:
    """What `command` prints, both streams together, as it would in a checkout with .venv on PATH."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"({command}) 2>&1"],
        cwd=directory,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    return done.stdout


def session(fence: str, directory: Path) -> str:
    """The fence as it should read: each command with what it prints now, `…` kept where it still is true."""
    commands = re.split(r"^\$ ", fence, flags=re.MULTILINE)[1:]
    told = []
    for command in commands:
        line, _, expected = command.partition("\n")
        printed = shell(line, directory)
        told.append(f"$ {line}\n{expected if matches(expected, printed) else printed}")
    return "".join(told)


def matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected).replace("…", ".*")
    return re.fullmatch(pattern, printed) is not None


def replace(page: Path, old: str, new: str) -> None:
    text = page.read_text()
    assert text.count(old) == 1
    page.write_text(text.replace(old, new))


def consoles() -> Iterator[object]:
    for page in PAGES:
        for number, fence in enumerate(CONSOLE.findall(page.read_text()), start=1):
            yield pytest.param(page, fence, id=f"{name(page)}-{number}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory in which the commands find the docs, and leave what they write."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.parametrize("table", TABLES)
def test_a_reference_table_is_what_the_code_says(table: str) -> None:
    start, end = f"<!-- generated: {table} -->\n", "<!-- /generated -->"
    page = page_with(start)
    present = page.read_text().partition(start)[2].partition(end)[0]
    if UPDATE:
        replace(page, f"{start}{present}", f"{start}{TABLES[table]()}")
    else:
        assert present == TABLES[table](), f"{name(page)} is stale: run scripts/golden"


@pytest.mark.parametrize(("page", "fence"), list(consoles()))
def test_a_command_prints_what_stands_below_it(page: Path, fence: str, checkout: Path) -> None:
    now = session(fence, checkout)
    if UPDATE and now != fence:
        replace(page, f"```console\n{fence}```", f"```console\n{now}```")
    elif not UPDATE:
        assert fence == now, f"{name(page)} is stale: run scripts/golden"


def same_but_for_numbers(text: str) -> str:
    """The text without what differs from run to run: ports, times, hashes, temporary paths, and their widths."""
    told = [line for line in text.splitlines() if not line.startswith("installing ")]
    volatile = r"/tmp/\S+|\b[0-9a-f]{8,}(-[0-9a-f]{4,}){0,4}\b|[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?"
    kept = re.sub(volatile, "#", "\n".join(told))
    return re.sub(r"[ =─-]+", " ", kept).strip()


def test_the_demo_prints_what_the_readme_shows() -> None:
    webhook, _ = demo()
    compare_with_readme("demo", webhook)


@pytest.mark.dataplane
@pytest.mark.envoy
def test_in_the_demo_every_call_is_answered_while_replicas_fail_as_the_readme_shows() -> None:
    _, pods = demo()
    if pods.startswith("Left out: "):
        needs.missing("what the demo left out", pods)
    assert re.findall(r"^GET http://orders/ -> (.*)$", pods, re.MULTILINE) == ["120 times 200"] * 6
    assert re.findall(r"ejections_active\{.*\} (\d+)$", pods, re.MULTILINE) == ["1"]
    assert re.findall(r"connected_state\{\} (\d+)$", pods, re.MULTILINE) == ["0", "1"]  # killed, and back
    compare_with_readme("pods", pods)


def demo() -> tuple[str, str]:
    """What it prints of the webhook, and of pods that call each other: that, or why they are left out."""
    done = subprocess.run([ROOT / "scripts/demo"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    webhook, start, pods = re.split(r"^(== 7\.|Left out: )", done.stdout, maxsplit=1, flags=re.MULTILINE)
    return webhook, start + pods


def compare_with_readme(block: str, text: str) -> None:
    readme, (start, end) = ROOT / "README.md", (f"<!-- {block} -->\n", f"<!-- /{block} -->")
    shown = readme.read_text().partition(start)[2].partition(end)[0]
    printed = f"```diff\n{text.strip()}\n```\n"
    if UPDATE:
        replace(readme, f"{start}{shown}", f"{start}{printed}")
    else:
        assert same_but_for_numbers(shown) == same_but_for_numbers(printed), "README is stale: run scripts/golden"


@pytest.mark.parametrize("text", [INJECT, EXPLAIN, SETTINGS, CHECK], ids=["inject", "explain", "settings", "check"])
def test_the_example_of_a_help_text_runs(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^  (python -m webhook .*)$", text, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, *shlex.split(example)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode in (0, 1), done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", ["serve", "inject", "explain", "settings", "settings check"])
def test_every_command_has_a_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])

    assert caught.value.code == 0
    assert f"python -m webhook {command}" in capsys.readouterr().out.partition("example:")[2]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path) -> None:
    assert [link for link, _ in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_path_that_is_named_exists(page: Path) -> None:
    text = page.read_text().replace("overlays/mine", "overlays/example")  # the reader's copy
    named = re.findall(r"(?:^|[\s`])((?:manifests|docs|scripts)/[\w./-]+)", text)

    assert [path for path in named if not (ROOT / path.rstrip(".")).exists()] == []


def test_a_metric_that_is_named_exists() -> None:
    ours = rf"envoy_sidecar_(?:{'|'.join(PROCESSES)})_\w+"
    named = {metric for page in PAGES for metric in re.findall(ours, page.read_text())}

    assert named
    assert named - metrics() == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_log_line_that_is_named_exists(page: Path) -> None:
    code = "".join(file.read_text() for process in PROCESSES for file in (ROOT / process).rglob("*.py"))
    text = page.read_text()
    named = re.findall(r"log lines? `([^`]+)`", " ".join(text.split()))
    for table in re.findall(r"^\| log line \|.*\n((?:\|.*\n)+)", text, re.MULTILINE):
        named += re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)

    assert [line for line in named if f'"{line}"' not in code] == []


def test_the_settings_page_shows_the_example_that_is_checked() -> None:
    assert (ROOT / "docs/examples/settings.yaml").read_text() in (ROOT / "docs/settings.md").read_text()


def test_every_setting_is_explained_once() -> None:
    overridden = {explain.setting_path(row) for row in TABLE}
    known = set(re.findall(r"^\| `([\w.]+)` ", reference.setting_table(), re.MULTILINE))

    assert known - overridden == set(reference.HELP)


def test_every_message_of_a_reason_is_one_sentence() -> None:
    sentences = [reason.sentence for reason in (*SkipReason, *RejectReason)]

    assert all(sentence and "\n" not in sentence and not sentence.endswith(".") for sentence in sentences)
