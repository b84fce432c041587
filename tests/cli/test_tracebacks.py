"""Tracebacks: the application's frames."""

from __future__ import annotations

import pytest

from chimpbase import Queue
from chimpbase.cli.tracebacks import trimmed, whole


def _caught(work: str, name: str = "/app/shop.py") -> BaseException:
    try:
        exec(compile(work, name, "exec"), {"Queue": Queue})
    except BaseException as error:
        return error
    raise AssertionError


def test_frames_of_the_package_are_left_out_of_a_traceback_of_the_application() -> None:
    error = _caught("def make():\n    Queue('cron:x')\nmake()")
    assert trimmed(error).count('File "') == 2 + 1  # the test's own frame is an application's too
    assert "chimpbase/_app" not in trimmed(error)
    assert "chimpbase/_app" in whole(error)


def test_a_cause_is_told_too() -> None:
    text = trimmed(_caught("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('sku') from e"))
    assert text.index("ZeroDivisionError") < text.index("direct cause") < text.index("KeyError: 'sku'")


def test_a_file_that_does_not_parse_is_shown_with_its_line_alone() -> None:
    text = trimmed(_caught("def (:\n"))
    assert "/app/shop.py" in text
    assert "SyntaxError" in text


@pytest.mark.parametrize("base", ["Exception", "BaseException"])
def test_an_exception_that_cannot_be_written_is_named(base: str) -> None:
    error = _caught(f"class Bad({base}):\n    def __str__(self):\n        raise RuntimeError\nraise Bad")
    assert "Bad" in trimmed(error)
    assert "Bad" in whole(error)
