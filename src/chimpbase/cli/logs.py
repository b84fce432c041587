"""Log lines: one for people on a terminal, one for machines.

Invariant: a record becomes exactly one event on the stream, and nothing a user, a payload or an exception says can
forge another or move the cursor: control characters are escaped, and the lines below the first are indented. JSON
lines are valid JSON for any record. Logging never raises and never waits for anything but its stream. Absent on
purpose: files, rotation and queues, which belong to whoever starts the process.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import IO, Any, Literal, cast

from chimpbase.cli.paint import Paint
from chimpbase.cli.tracebacks import trimmed, whole

Format = Literal["text", "json"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CORE = frozenset({"time", "level", "logger", "message", "exception"})
_DEEPEST = 6
_WIDEST = 1000
_LONGEST = 100_000

#: The kind of a line, by the beginning of its logger's name; the longest that fits wins.
_KINDS = {
    "chimpbase.app": "log",
    "chimpbase.cli": "chimpbase",
    "chimpbase.cron": "cron",
    "chimpbase.http": "http",
    "chimpbase.job": "job",
    "chimpbase.pg": "database",
    "chimpbase.schema": "schema",
    "chimpbase.workflow": "workflow",
    "chimpbase.engine": "engine",
    "chimpbase.runtime": "runtime",
}
#: The kinds that a job's queue tells: deliveries, occurrences and activations are jobs too.
_QUEUES = {"subscription:": "event", "cron:": "cron", "workflow:": "workflow"}
_COLOURS = {
    "http": "blue",
    "job": "cyan",
    "event": "magenta",
    "cron": "yellow",
    "workflow": "green",
    "log": "white",
}


def set_up_logs(*, level: str, format: Format, stream: IO[str], colour: bool) -> None:
    """Send the records of `chimpbase` from `level` on, and warnings of everything else, to `stream`.

    Replaces the handlers of the root logger. Idempotent.
    """
    formatter = JsonLines() if format == "json" else TextLines(Paint(colour))
    handler = _Silent(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("chimpbase").setLevel(level.upper())
    logging.captureWarnings(capture=True)


class TextLines(logging.Formatter):
    """`15:22:57.150  job       order.ship#6 done in 2.0 ms`, in local time."""

    def __init__(self, paint: Paint) -> None:
        super().__init__()
        self._paint = paint

    def format(self, record: logging.LogRecord) -> str:
        paint, kind = self._paint, _kind(record)
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        message = _told(record)
        if kind == "log":
            message = f"{record.name.removeprefix('chimpbase.app.')}: {message}"
        if record.exc_info and record.exc_info[1]:
            message = f"{message}\n{trimmed(record.exc_info[1])}"
        first, *rest = visible(message).split("\n")
        if record.levelno >= logging.WARNING:
            tone = "red" if record.levelno >= logging.ERROR else "yellow"
            first = paint(first, tone)
        lines = [f"{paint(moment, 'dim')}  {paint(f'{kind:<9}', _COLOURS.get(kind, 'dim'))} {first}"]
        lines += [f"{'':14}{paint('|', 'dim')} {line}" for line in rest]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, the record's data, and an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _told(record),
        }
        data = getattr(record, "data", None)
        if isinstance(data, Mapping):
            for key, value in cast("Mapping[Any, Any]", data).items():
                name = _text(key)
                line[f"data_{name}" if name in _CORE else name] = value
        if record.exc_info and record.exc_info[1]:
            line["exception"] = whole(record.exc_info[1])
        return to_json(line)


def to_json(value: object) -> str:
    """Any value as one line of valid JSON: what JSON has no word for is written as text."""
    return json.dumps(_plain(value, depth=0), ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


def visible(text: str) -> str:
    """`text` with every control character but newline and tab written as an escape."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Silent(logging.StreamHandler[IO[str]]):
    """A handler whose stream may close, block or refuse a character without the program noticing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of the standard library
        return


def _kind(record: logging.LogRecord) -> str:
    data: object = getattr(record, "data", None)
    if record.name == "chimpbase.job" and isinstance(data, Mapping):
        queue = str(cast("Mapping[str, object]", data).get("queue", ""))
        return next((kind for prefix, kind in _QUEUES.items() if queue.startswith(prefix)), "job")
    name = record.name
    while name:
        if name in _KINDS:
            return _KINDS[name]
        name = name.rpartition(".")[0]
    return record.name.partition(".")[0][:9]


def _told(record: logging.LogRecord) -> str:
    # a message may not fit its arguments, and an argument's __str__ may raise anything
    try:
        message = record.getMessage()
    except BaseException:
        message = f"{_text(record.msg)} {_text(record.args)}"
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ... [cut]"


def _plain(value: object, *, depth: int) -> object:
    match value:
        case None | bool():
            return value
        case int():
            # readers of JSON keep 64 bits at most, and a number of a million digits would refuse to be written
            return int(value) if -(2**63) <= value < 2**63 else _text(value)
        case float():
            return float(value) if math.isfinite(value) else _text(value)
        case str():
            return _SURROGATE.sub("\ufffd", str.__str__(value)[:_LONGEST])
        case datetime() | date():
            return value.isoformat()
        case Mapping() if depth < _DEEPEST:
            items = list(cast("Mapping[object, object]", value).items())[:_WIDEST]
            return {_text(key): _plain(one, depth=depth + 1) for key, one in items}
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            return [_plain(one, depth=depth + 1) for one in list(cast("list[object]", value))[:_WIDEST]]
        case _:
            return _text(value)


def _text(value: object) -> str:
    try:
        text = str(value)[:_LONGEST]
    except BaseException:
        text = f"<{type(value).__name__} that could not be written>"
    return _SURROGATE.sub("\ufffd", text)
