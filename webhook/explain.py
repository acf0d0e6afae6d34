"""What became of a workload, and the settings in effect, as text for a terminal. Decides nothing, prints nothing."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any

from pydantic.alias_generators import to_camel

from webhook import traffic
from webhook.annotations import TABLE, Annotation
from webhook.choices import Choices
from webhook.injection import Injected, Outcome, Rejected, Skipped, Unchanged
from webhook.settings import Settings
from webhook.values import Quantity, show_ports

WIDTH = 100  # characters

_SENTENCES = {
    "added": "the pod gets a sidecar",
    "repaired": "the pod already holds parts of ours that are not what belongs there; they are replaced",
    "up_to_date": "the pod already is exactly what it should be",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of one workload: where it stands, its name, the path to its pod template, the pod as written."""

    where: str
    name: str
    template: str
    pod: Mapping[str, Any]
    outcome: Outcome


def sentence(outcome: Outcome) -> str:
    """Why, for people."""
    match outcome:
        case Injected() | Unchanged():
            return _SENTENCES[outcome.reason]
        case Skipped() | Rejected():
            return outcome.reason.sentence


def brief(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each workload, and one for each problem and warning."""
    for finding in findings:
        outcome = finding.outcome
        yield f"{finding.where}: {finding.name}: {outcome.decision} ({outcome.reason}): {sentence(outcome)}"
        yield from (f"  {_within(finding)}{problem}" for problem in _problems(outcome))
        yield from (f"  warning: {warning}" for warning in _warnings(outcome))


def full(finding: Finding, settings: Settings) -> str:
    """Everything about one workload: the decision, why, what is wrong, and where each value came from."""
    outcome = finding.outcome
    lines = [f"{finding.where}: {finding.name}", ""]
    lines += _wrap(f"{outcome.decision} ({outcome.reason}): {sentence(outcome)}", "  ")
    for problem in _problems(outcome):
        lines += _wrap(f"{_within(finding)}{problem}", "  - ")
    for warning in _warnings(outcome):
        lines += _wrap(f"warning: {warning}", "  ! ")
    if isinstance(outcome, Injected | Unchanged):
        annotations = finding.pod["metadata"].get("annotations") or {}
        lines += ["", *_table(outcome.choices, outcome.given, annotations, settings)]
        for rows in traffic.tables(finding.pod, outcome.choices, settings):
            lines += ["", *_columns(rows)]
    return "\n".join((*lines, ""))


def summary(findings: Sequence[Finding]) -> str:
    """How many workloads came to what."""
    counts = Counter(finding.outcome.decision for finding in findings)
    told = ", ".join(f"{count} {decision}" for decision, count in counts.items())
    return f"{len(findings)} workload{'' if len(findings) == 1 else 's'}{': ' if told else ''}{told}"


def effective(settings: Settings) -> Any:
    """The settings as plain data in the words of the settings file, defaults included."""
    return _plain(settings)


def _within(finding: Finding) -> str:
    return f"{finding.template}: " if finding.template else ""


def _problems(outcome: Outcome) -> tuple[str, ...]:
    return outcome.problems if isinstance(outcome, Rejected) else ()


def _warnings(outcome: Outcome) -> tuple[str, ...]:
    """The warnings; that of a skipped pod says again why it was."""
    return () if isinstance(outcome, Skipped) else outcome.warnings


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _table(
    choices: Choices, given: Sequence[Annotation], annotations: Mapping[str, str], settings: Settings
) -> Iterator[str]:
    """What the sidecar gets: the author's annotations first, then the defaults."""
    rows = [("ANNOTATION", "VALUE", "FROM")]
    for row in sorted(TABLE, key=lambda row: row not in given):
        written = annotations.get(row.key, "") if row in given else None
        value = show(getattr(choices, row.field))
        rows.append((row.name, value, _origin(row, value, written, settings)))
    yield from _columns(rows)


def _columns(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [min(max(len(row[column]) for row in rows), 56) for column in (0, 1)]
    for first, second, third in rows:
        yield f"  {first:{widths[0]}}  {second:{widths[1]}}  {third}".rstrip()


def _origin(row: Annotation, value: str, written: str | None, settings: Settings) -> str:
    path = setting_path(row)
    default = attrgetter(row.default)
    if written is None:
        return f"built in: {path}" if default(settings) == default(Settings()) else f"operator: {path}"
    shown = "annotation" if written.strip() == value or len(written) > 40 else f"annotation: {written.strip()}"
    return f"{shown}, with {path}" if row.join is not None and default(settings) else shown


def setting_path(row: Annotation) -> str:
    """Where the annotation's default stands in the settings file."""
    return ".".join(to_camel(step) for step in row.default.split("."))


def show(value: object) -> str:
    """A value as its annotation would be written; no annotation takes a limit away."""
    match value:
        case None:
            return "no limit"
        case ():
            return "-"
        case ((int(), int()), *_):
            return show_ports(value)  # type: ignore[arg-type]
        case tuple():
            return ",".join(str(entry) for entry in value)
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    match value:
        case Quantity():
            return str(value)
        case ((int(), int()), *_):
            return [int(entry) if entry.isdigit() else entry for entry in show_ports(value).split(",")]
        case tuple():
            return [_plain(entry) for entry in value]
        case dict():
            return {key: _plain(entry) for key, entry in value.items()}
        case _ if is_dataclass(value):
            return {to_camel(field.name): _plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value
