"""Log lines: one line of JSON or text for each record, written without ever waiting for whoever reads them.

A record's fields are its `facts`. No value can start a new line, move a terminal's cursor, pose as another field or
fill a disk: values are escaped, and those of a long line cut. Of an exception, type and place are shown, not the
message, which may quote a pod.
"""

import json
import logging
import os
import re
import stat
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import msgspec

MAX_LINE = 1024  # bytes of JSON; in a longer one, or one that is not plain ASCII, every value is made safe
MAX_VALUE = 256  # characters
_PLAIN = re.compile(r"[\w.,:/+-]+", re.ASCII)

Fact = str | int | float
Render = Callable[[Mapping[str, Fact]], bytes]


class Lines(logging.Handler):
    """Writes each record to the file descriptor as one line; `on_drop` is called for one that found no room."""

    def __init__(self, descriptor: int, line_format: Literal["json", "text"], on_drop: Callable[[], None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._render: Render = _json if line_format == "json" else _text
        self._on_drop = on_drop

    def emit(self, record: logging.LogRecord) -> None:
        self.write(_fields(record))

    def write(self, fields: Mapping[str, Fact]) -> None:
        try:
            os.write(self._descriptor, self._render(fields))
        except OSError:  # full, or nobody reads: an admission must not wait for that
            self._on_drop()


_direct: Lines | None = None  # once `start` has run


def start(line_format: Literal["json", "text"], level: str, on_drop: Callable[[], None]) -> None:
    """Sends all logging of this process to standard output."""
    # What no line shows is not collected (docs.python.org, logging HOWTO, "Optimization"): half the cost of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    global _direct
    _direct = Lines(_unblocked(1), line_format, on_drop)
    root.handlers = [_direct]
    root.setLevel(level.upper())
    sys.unraisablehook = _tell_unraisable


def tell(event: str, facts: Mapping[str, Fact]) -> None:
    """`logging.info` for what is told of every admission: the same line for half the CPU, as it makes no record."""
    if _direct is None:
        logging.getLogger("webhook").info(event, extra={"facts": facts})
    else:
        _direct.write({"time": _time(time.time()), "level": "INFO", "event": event, **facts})


def _tell_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """Such as a client's server name that is no text: a line like any other, not a traceback in between."""
    logging.getLogger("webhook").warning("ignored", exc_info=what.exc_value)


def _unblocked(descriptor: int) -> int:
    """The same pipe, opened once more: not to wait is then our choice alone, not that of all who hold it."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    try:
        return os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return descriptor


def _fields(record: logging.LogRecord) -> dict[str, Fact]:
    fields: dict[str, Fact] = {
        "time": _time(record.created),
        "level": record.levelname,
        "event": record.getMessage(),
        **record.__dict__.get("facts", {}),
    }
    if record.exc_info:
        fields |= _exception(record.exc_info[1])
    return fields


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _exception(error: BaseException | None) -> dict[str, Fact]:
    frames = traceback.extract_tb(error.__traceback__)[-8:] if error else []
    places = [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in frames]
    return {"exception": type(error).__name__, "at": " > ".join(places)}


def _json(fields: Mapping[str, Fact]) -> bytes:
    with suppress(UnicodeEncodeError):
        line = msgspec.json.encode(fields)  # escapes control characters
        if line.isascii() and len(line) <= MAX_LINE:
            return line + b"\n"
    return msgspec.json.encode({name: _short(value) for name, value in fields.items()}) + b"\n"


def _text(fields: Mapping[str, Fact]) -> bytes:
    when, level, event, *facts = ((name, _short(value)) for name, value in fields.items())
    words = [str(when[1]), str(level[1]), _word(event[1]), *(f"{name}={_word(value)}" for name, value in facts)]
    return (" ".join(words) + "\n").encode()


def _short(value: Fact) -> Fact:
    if not isinstance(value, str):
        return value
    if not (value.isascii() and value.isprintable()):
        value = value.encode("unicode_escape").decode("ascii")
    return value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]}..."


def _word(value: Fact) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
