"""Log lines: readable for people, valid for machines, forged by nobody."""

from __future__ import annotations

import io
import json
import logging
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase.cli.logs import JsonLines, TextLines, set_up_logs, to_json
from chimpbase.cli.paint import Paint

TEXT = TextLines(Paint(on=False))
JSON = JsonLines()


class Unwritable:
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


def record(message: object, *args: Any, name: str = "chimpbase.job", data: object = None, error: Any = None) -> Any:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, exc_info)
    if data is not None:
        made.data = data
    return made


def raised() -> Exception:
    try:
        raise ValueError("a\x1b[31m\nb")
    except ValueError as error:
        return error


def test_a_json_line_has_time_level_logger_message_data_and_exception() -> None:
    line = json.loads(
        JSON.format(record("%s done", "ship#1", data={"queue": "ship", "job": 1, "seconds": 0.5}, error=raised()))
    )
    assert datetime.fromisoformat(line.pop("time")).tzinfo == UTC
    assert "ValueError: a" in line.pop("exception")
    assert line == {
        "level": "warning",
        "logger": "chimpbase.job",
        "message": "ship#1 done",
        "queue": "ship",
        "job": 1,
        "seconds": 0.5,
    }


def test_data_cannot_replace_what_a_line_must_have() -> None:
    line = json.loads(JSON.format(record("real", data={"message": "forged", "level": "debug", "x": 1})))
    assert (line["message"], line["level"]) == ("real", "warning")
    assert (line["data_message"], line["data_level"], line["x"]) == ("forged", "debug", 1)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.characters(categories=["Cs"])
    | st.builds(Unwritable),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(message=st.text(), data=st.dictionaries(st.text(), ANYTHING))
def test_whatever_is_logged_is_one_line_of_valid_json(message: str, data: dict[str, Any]) -> None:
    text = JSON.format(record(message, data=data))
    assert re.fullmatch(r"[\x20-\x7e]+", text)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads(text, parse_constant=refuse)
    assert line["message"] == re.sub("[\ud800-\udfff]", "\ufffd", message)


@given(message=st.text(), argument=st.text())
def test_a_text_line_cannot_be_forged(message: str, argument: str) -> None:
    first, *rest = TEXT.format(record("%s and %s", message, argument)).split("\n")
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  job       ", first)
    assert all(line.startswith("              | ") for line in rest)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", "".join([first, *rest]))


def test_an_escape_sequence_is_written_out() -> None:
    assert TEXT.format(record("\x1b[2Jgone\r\x00")).endswith(r"\x1b[2Jgone\r\x00")
    assert json.loads(JSON.format(record("\x1b[2J")))["message"] == "\x1b[2J"


def test_a_message_that_does_not_fit_its_arguments_is_still_logged() -> None:
    for formatter in (TEXT, JSON):
        assert "%d jobs" in formatter.format(record("%d jobs", "many"))
        assert "could not be written" in formatter.format(record("%s", Unwritable()))
        assert "could not be written" in formatter.format(record(Unwritable()))


def test_what_json_has_no_word_for_becomes_text() -> None:
    loop: list[Any] = []
    loop.append(loop)
    told = json.loads(to_json({"nan": math.nan, "big": 2**70, "set": {1}, "deep": loop, 5: b"x"}))
    assert (told["nan"], told["big"], told["set"], told["5"]) == ("nan", str(2**70), [1], "b'x'")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("chimpbase.job", {"queue": "ship"}, "job"),
        ("chimpbase.job", {"queue": "subscription:notify"}, "event"),
        ("chimpbase.job", {"queue": "cron:nightly"}, "cron"),
        ("chimpbase.job", None, "job"),
        ("chimpbase.workflow", None, "workflow"),
        ("chimpbase.engine.pruner", None, "engine"),
        ("chimpbase.pg", None, "database"),
        ("chimpbase.http", None, "http"),
        ("sqlalchemy.engine", None, "sqlalchem"),
    ],
)
def test_a_line_says_its_kind(name: str, data: object, kind: str) -> None:
    assert TEXT.format(record("x", name=name, data=data))[14:].split()[0] == kind


def test_a_line_of_a_handler_says_whose_it_is() -> None:
    assert TEXT.format(record("hello", name="chimpbase.app.order.ship")).endswith("log       order.ship: hello")


def test_colour_is_only_for_a_terminal_that_wants_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Paint.on_stream(Terminal(), environ={"TERM": "xterm"})("x", "red") == "\x1b[31mx\x1b[0m"
    assert Paint.on_stream(Terminal(), environ={"TERM": "xterm", "NO_COLOR": "1"})("x", "red") == "x"
    assert Paint.on_stream(Terminal(), environ={"TERM": "dumb"})("x", "red") == "x"
    assert Paint.on_stream(io.StringIO(), environ={"TERM": "xterm"})("x", "red") == "x"


@pytest.fixture
def logging_put_back() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("chimpbase")
    before = (list(root.handlers), root.level, ours.level)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


@pytest.mark.usefixtures("logging_put_back")
def test_our_own_lines_come_from_the_level_on_and_others_only_as_warnings() -> None:
    stream = io.StringIO()
    set_up_logs(level="info", format="json", stream=stream, colour=False)
    set_up_logs(level="info", format="json", stream=stream, colour=False)
    logging.getLogger("chimpbase.job").debug("too quiet")
    logging.getLogger("chimpbase.job").info("told")
    logging.getLogger("another").info("not ours")
    logging.getLogger("another").warning("a warning")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["told", "a warning"]


@pytest.mark.usefixtures("logging_put_back")
def test_a_stream_that_fails_fails_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    set_up_logs(level="info", format="text", stream=Broken(), colour=False)
    logging.getLogger("chimpbase.job").info("lost")
    assert capsys.readouterr().err == ""
