"""What thousands of proxies may meet, in the log."""

import pytest

from controlplane.xds import notices
from controlplane.xds.notices import AGAIN_SECONDS, Notices


def told(caplog: pytest.LogCaptureFixture, *times: float, who: str = "10.0.0.1") -> list[str]:
    """The problems that stand in the log after one and the same happened at these times."""
    all_of_them = Notices()
    for time in times:
        all_of_them.tell("refused", "invalid", who, f"at {time:.0f}", time)
    return [record.facts["problem"] for record in caplog.records]  # type: ignore[attr-defined]


def test_what_happens_again_and_again_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, 0.0, 1.0, AGAIN_SECONDS - 1) == ["at 0"]


def test_and_once_more_after_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, 0.0, 1.0, AGAIN_SECONDS, AGAIN_SECONDS + 1) == ["at 0", f"at {AGAIN_SECONDS:.0f}"]


def test_so_many_things_are_remembered(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "REMEMBERED", 2)
    some = Notices()
    for who in ("a", "b", "c", "b", "a"):
        some.tell("refused", "invalid", who, "", 1.0)
    assert [record.facts["who"] for record in caplog.records] == ["a", "b", "c", "a"]  # type: ignore[attr-defined]
