"""inject and explain over YAML documents: what the API server would store, and why, without one.

Acts as if every namespace had opted in, since no document says so. A stream with a rejection or an unreadable
workload yields nothing at all: half of it, applied, would be pods without a sidecar.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonpatch

from webhook import documents, explain, injection, workload
from webhook import pod as pods
from webhook import settings as operator
from webhook.checks import Level
from webhook.choices import check_leash
from webhook.documents import Document
from webhook.errors import MalformedDocument, MalformedReview, SettingsError, Unreadable, WebhookError
from webhook.explain import Finding
from webhook.injection import Injected, Rejected
from webhook.settings import Settings
from webhook.values import printable
from webhook.workload import Workload

OK, REJECTED, UNUSABLE = 0, 1, 2  # exit codes


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a stream: each workload, what could not be read, and the stream with the sidecars in it."""

    findings: tuple[Finding, ...]
    problems: tuple[str, ...]
    stream: str

    @property
    def exit_code(self) -> int:
        if self.problems:
            return UNUSABLE
        return REJECTED if any(isinstance(finding.outcome, Rejected) for finding in self.findings) else OK


def examine(stream: str, source: str, level: Level, settings: Settings) -> Report:
    """What becomes of every workload in `stream` (YAML); `source` names it in messages.

    Documents that get no sidecar are in the result byte for byte. Never raises for what `stream` holds.
    """
    examiner = _Examiner(source, level, settings)
    texts = []
    try:
        for document in documents.split(stream):
            texts.append(examiner.rewrite(document))  # noqa: PERF401  what stands before a problem counts
    except MalformedDocument as error:
        examiner.problems.append(f"{source}:{error.line}: document {error.number} {error.message}")
    return Report(tuple(examiner.findings), tuple(examiner.problems), "".join(texts))


class _Examiner:
    """Goes through the documents and keeps what it finds."""

    def __init__(self, source: str, level: Level, settings: Settings) -> None:
        self._source, self._level, self._settings = source, level, settings
        self.findings: list[Finding] = []
        self.problems: list[str] = []

    def rewrite(self, document: Document) -> str:
        """The text of `document` with its sidecars in it. Raises MalformedDocument."""
        data = documents.load(document)
        where = f"{self._source}:{document.content_line}: document {document.number}"
        changed = [self._inject(where + place, known, target) for place, known, target in _workloads(data, "")]
        return documents.dump(data, document) if any(changed) else document.text

    def _inject(self, where: str, known: Workload, target: dict[str, Any]) -> bool:
        """Gives the template in `target` its sidecar, if it gets one; whether it did."""
        name, field = _name(target), ".".join(known.template)
        try:
            pod = workload.pod(json.dumps(target).encode())
            assert pod is not None  # `known` was found
            outcome = injection.inject(pod, self._level, self._settings)
        except MalformedReview as error:
            self.problems.append(": ".join(part for part in (where, name, field, str(error)) if part))
            return False
        self.findings.append(Finding(where, name, field, injection.authored(pods.decode_whole(pod)), outcome))
        if isinstance(outcome, Injected):
            _apply(outcome.patch, known, target)
        return isinstance(outcome, Injected)


def _workloads(data: object, place: str) -> Iterator[tuple[str, Workload, dict[str, Any]]]:
    """Every workload in a document, with its place in it if it is an item of a List."""
    if not isinstance(data, dict):
        return
    if (data.get("apiVersion"), data.get("kind")) == ("v1", "List") and isinstance(data.get("items"), list):
        for number, item in enumerate(data["items"]):
            yield from _workloads(item, f"{place}{'.' if place else ', '}items[{number}]")
    elif (known := workload.find(data.get("apiVersion"), data.get("kind"))) is not None:
        yield place, known, data


def _apply(patch: bytes, known: Workload, target: dict[str, Any]) -> None:
    template = target
    for step in known.template:
        template = template[step]
    if template.get("metadata") is None:  # the Pod that was patched had some
        template["metadata"] = {}
    jsonpatch.apply_patch(template, json.loads(patch), in_place=True)


def _name(target: Mapping[str, Any]) -> str:
    metadata = target.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = metadata.get("name") or metadata.get("generateName") or "(no name)"
    shown = f"{metadata['namespace']}/{name}" if metadata.get("namespace") else f"{name}"
    return f"{target.get('kind')} {printable(shown)}"


# The commands


def run_inject(file: str, level: Level, settings_file: Path | None) -> int:
    """Prints the stream with the sidecars in it, and on standard error what became of each workload; an exit code."""
    try:
        settings = _settings(settings_file)
        report = examine(_read(file), _source(file), level, settings)
    except (Unreadable, SettingsError) as error:
        return _complain(error)
    for line in (*explain.brief(report.findings), *report.problems):
        print(line, file=sys.stderr)
    if report.exit_code == OK:
        sys.stdout.write(report.stream)
    else:
        print("nothing was written: mend the above first", file=sys.stderr)
    return report.exit_code


def run_explain(file: str, level: Level, settings_file: Path | None) -> int:
    """Prints what becomes of each workload, and why; an exit code."""
    try:
        settings = _settings(settings_file)
        report = examine(_read(file), _source(file), level, settings)
    except (Unreadable, SettingsError) as error:
        return _complain(error)
    for finding in report.findings:
        print(explain.full(finding, settings))
    print(explain.summary(report.findings))
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return report.exit_code


def run_check(file: Path) -> int:
    """Prints `ok`, the hash and the effective settings, or every problem; an exit code."""
    try:
        settings = _settings(file)
    except SettingsError as error:
        return _complain(error)
    print(f"ok: {file}: settings hash {settings.hash}; in effect, defaults included:\n")
    print(documents.to_yaml(explain.effective(settings)), end="")
    return OK


def _read(file: str) -> str:
    """The text of a file; `-` is standard input. Raises Unreadable."""
    try:
        if file == "-" and sys.stdin is None:
            raise Unreadable("stdin: is closed")
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except OSError as error:
        raise Unreadable(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"{_source(file)}: is no UTF-8 from byte {error.start + 1} on") from None


def _source(file: str) -> str:
    return "stdin" if file == "-" else file


def _settings(file: Path | None) -> Settings:
    return Settings() if file is None else check_leash(operator.load(file), str(file))


def _complain(error: WebhookError) -> int:
    print(error, file=sys.stderr)
    return UNUSABLE
