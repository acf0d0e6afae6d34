"""logs: one record is one line, whatever is in it, and it is written without waiting."""

import json
import logging
import os
import shlex
import sys
from typing import Any, Literal

import pytest

from webhook.logs import MAX_VALUE, Lines

PIPE_BUF = 4096  # bytes that are written to a pipe in one piece (POSIX asks for 512, Linux has 4096)


def written(event: str, line_format: Literal["json", "text"] = "json", error: bool = False, **facts: Any) -> str:
    """What one record looks like."""
    reading, writing = os.pipe()
    handler = Lines(writing, line_format, on_drop=lambda: None)
    info = sys.exc_info() if error else None
    record = logging.LogRecord("webhook", logging.INFO, "", 0, event, (), info)
    record.facts = facts
    handler.emit(record)
    os.close(writing)
    with os.fdopen(reading) as lines:
        return lines.read()


def test_a_line_is_one_json_object() -> None:
    line = json.loads(written("admission", decision="injected", milliseconds=0.25))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "INFO", "event": "admission", "decision": "injected", "milliseconds": 0.25}


def test_text_is_readable_and_quotes_what_is_no_word() -> None:
    line = written("admission", "text", reason="added", owner='a "b"')
    assert line.partition(" ")[2] == 'INFO admission reason=added owner="a \\"b\\""\n'


HOSTILE = ["a\nb", "a\r\n{}", "\x1b[31m", "\u2028", '"', " decision=injected", "\x00", "\\", "ü\ud800"]


@pytest.mark.parametrize("line_format", ["json", "text"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_value_can_start_a_line_or_pose_as_a_field(value: str, line_format: Literal["json", "text"]) -> None:
    line = written("admission", line_format, owner=value, uid="u")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    if line_format == "json":
        assert set(json.loads(line)) == {"time", "level", "event", "owner", "uid"}
    else:
        assert [word.partition("=")[0] for word in shlex.split(line)[3:]] == ["owner", "uid"]


def test_a_line_is_short_enough_to_be_written_in_one_piece() -> None:
    hostile = "\x01" * 9999
    line = written(hostile, namespace=hostile, owner=hostile, uid=hostile)
    assert len(line.encode()) < PIPE_BUF
    assert len(json.loads(line)["owner"]) == MAX_VALUE + len("...")


def test_an_exception_shows_where_and_not_what() -> None:
    """A message may quote the pod: KeyError('password')."""
    try:
        json.loads("{}")["password"]
    except KeyError:
        line = written("crash", error=True)
    assert json.loads(line)["exception"] == "KeyError"
    assert "test_logs.py" in json.loads(line)["at"]
    assert "password" not in line


def test_a_line_that_finds_no_room_is_dropped_and_counted() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    dropped: list[None] = []
    handler = Lines(writing, "json", on_drop=lambda: dropped.append(None))
    for _ in range(1000):
        handler.emit(logging.LogRecord("webhook", logging.INFO, "", 0, "x" * 200, (), None))
    os.close(reading)
    handler.emit(logging.LogRecord("webhook", logging.INFO, "", 0, "nobody reads", (), None))
    os.close(writing)
    assert 500 < len(dropped) < 1000
