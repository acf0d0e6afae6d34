"""One line of JSON or text for each record, on standard output; a record's fields are its `facts`.

No key reaches a line: what is logged is chosen field by field, of an exception only its type and place are shown, and
the Kubernetes client, which would log whole answers, is never heard below WARNING.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

MAX_VALUE = 512  # characters

log = logging.getLogger("certs")

Fact = str | int | float


class _Lines(logging.Formatter):
    def __init__(self, line_format: Literal["json", "text"]) -> None:
        super().__init__()
        self._json = line_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        facts: Mapping[str, Fact] = record.__dict__.get("facts", {})
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": time, "level": record.levelname, "event": record.getMessage(), **facts}
        if record.exc_info and (error := record.exc_info[1]):
            fields |= {"exception": type(error).__name__, "at": _place(error)}
        short = {name: value[:MAX_VALUE] if isinstance(value, str) else value for name, value in fields.items()}
        if self._json:
            return json.dumps(short)
        when, level, event, *others = short
        words = [f"{name}={json.dumps(short[name])}" for name in others]
        return " ".join([str(short[when]), str(short[level]), json.dumps(short[event]), *words])


def start(line_format: Literal["json", "text"]) -> None:
    """Sends all logging of this process to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Lines(line_format))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("kubernetes").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry is a warning there; we say it once


def tell(event: str, facts: Mapping[str, Fact], level: int = logging.INFO) -> None:
    """Logs one event with its facts."""
    log.log(level, event, extra={"facts": facts})


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return " > ".join(f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in frames)
