"""Whatever an exception does to be described, what comes out can be stored."""

from __future__ import annotations

from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase._core.text import MARKER, describe_briefly, describe_exception, scrub


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


class Recursive(Exception):
    def __str__(self) -> str:
        return str(self)


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class Sly(str):
    def __str__(self) -> NoReturn:
        raise ValueError

    def __getitem__(self, key: object) -> NoReturn:
        raise ValueError


class Slyer(Exception):
    def __str__(self) -> str:
        return Sly("sly words")


def raised(error: BaseException, *, depth: int = 0) -> BaseException:
    try:
        if depth:
            raise raised(error, depth=depth - 1)
        raise error
    except BaseException as caught:
        return caught


@given(st.text(st.characters(codec=None), max_size=60), st.integers(0, 80))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_scrubbed_text_is_storable_and_within_its_limit(text: str, limit: int) -> None:
    clean = scrub(text, limit_bytes=limit)
    assert "\0" not in clean
    assert len(clean.encode()) <= limit


def test_clean_text_is_left_alone() -> None:
    assert scrub("héllo 😀\n") == "héllo 😀\n"


def test_what_cannot_be_stored_is_replaced_in_place() -> None:
    assert scrub("a\0b\ud800c") == "a\ufffdb\ufffdc"


def test_long_text_is_cut_between_characters_and_marked() -> None:
    cut = scrub("é" * 100, limit_bytes=21)
    assert cut == "é" * 5 + MARKER
    assert len(scrub("x" * 10_000_000).encode()) == 8192


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("plain"), "ValueError: plain"),
        (ValueError(), "ValueError"),
        (ValueError("a\0b\ud800"), "a\ufffdb\ufffd"),
        (Hostile(), "Hostile: [its __str__ raised SystemExit]"),
        (Recursive(), "Recursive: [its __str__ raised RecursionError]"),
        (NotText(), "NotText: [its __str__ raised TypeError]"),
        (Slyer(), "Slyer: sly words"),
        (ValueError("x" * 10_000_000), "xxx"),
        (
            ExceptionGroup("many", [ValueError("one"), Hostile(), ExceptionGroup("in", [KeyError("k")])]),
            "- KeyError: 'k'",
        ),
        (BaseExceptionGroup("all", [ValueError(str(n)) for n in range(1000)]), "and 995 more"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_any_exception_can_be_described(error: BaseException, words: str) -> None:
    for text in (describe_exception(error), describe_exception(raised(error, depth=3))):
        assert words in text
        assert len(text.encode()) <= 8192
        assert "\0" not in text


def test_a_description_tells_where_it_happened() -> None:
    text = describe_exception(raised(ValueError("x"), depth=2))
    assert "test_text.py" in text
    assert text.count("in raised") == 3


def test_a_deep_stack_is_trimmed_to_its_end() -> None:
    text = describe_exception(raised(ValueError("x"), depth=200))
    assert "181 outer frames left out" in text
    assert text.count("in raised") == 20


def test_causes_and_notes_are_told_and_a_circle_of_them_ends() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.add_note("try again\0")
    first.__notes__.append(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text = describe_exception(first)
    assert "caused by: KeyError: 'second'" in text
    assert "note: try again\ufffd" in text
    assert text.count("ValueError: first") == 1


def test_a_suppressed_context_is_not_told() -> None:
    error = ValueError("shown")
    error.__context__ = KeyError("hidden")
    assert "while handling: KeyError" in describe_exception(error)
    error.__suppress_context__ = True
    assert "hidden" not in describe_exception(error)


def test_a_brief_description_names_the_module() -> None:
    assert describe_briefly(Slyer()).endswith("test_text.Slyer: sly words")
    assert describe_briefly(ValueError("x" * 9000)).endswith(MARKER)
