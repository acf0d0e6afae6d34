"""What holds for every test."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.alone import turn
from tests.apiserver.admissions import MEASURED

# A shared machine may stall anywhere: how long an example takes says nothing about the product.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

TIERS = {"apiserver", "dataplane", "image"}  # folders whose tests share a cluster, a kernel or a builder


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A tier's folder is its marker, and one worker runs all of it."""
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
            item.add_marker(pytest.mark.xdist_group(tier))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked `alone` has the machine to itself."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _tell_measured(terminalreporter)
    _tell_skipped(terminalreporter)


def _tell_measured(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests recorded as MEASURED; by their reports, since xdist's controller runs none itself."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    lines = [str(value) for report in reports for key, value in report.user_properties if key == MEASURED]
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.line(line)


def _tell_skipped(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine did not run, and what would enable it: a line for each reason."""
    skipped = terminalreporter.getreports("skipped")
    reasons = Counter(report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple | list))
    if reasons:
        terminalreporter.section("not run on this machine")
    for reason, tests in reasons.most_common():
        terminalreporter.line(f"{tests:4} tests: {reason.removeprefix('Skipped: ')}")
