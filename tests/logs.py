"""The log, as tests read it."""

import pytest


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a server of this test writes to the log; threads of former tests may still end."""
    ours = (record for record in caplog.records if record.threadName == "MainThread")
    return [record.getMessage() for record in ours if record.name == "controlplane"]
