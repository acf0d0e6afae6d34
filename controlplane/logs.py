"""The process's log: one JSON object per line on stderr, with what happened and its facts."""

import json
import logging
import sys
from datetime import UTC, datetime

_LOG = logging.getLogger("controlplane")


def log_to_stderr() -> None:
    """From now on, what is told is written."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    # Of every client that goes away at a bad moment it has a line to say, and no JSON; what ends is counted.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def tell(event: str, level: int = logging.INFO, /, **facts: object) -> None:
    """A line of the log."""
    _LOG.log(level, event, extra={"facts": facts})


def tell_crash(event: str, /, **facts: object) -> None:
    """A line with the exception that is being handled, and where it came from."""
    _LOG.exception(event, extra={"facts": facts})


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        return json.dumps(facts)
