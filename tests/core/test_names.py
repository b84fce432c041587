"""Names and keys are data, inside limits a table and a terminal can hold."""

from __future__ import annotations

from typing import Any

import pytest

from chimpbase._core.errors import PayloadError, UsageError
from chimpbase._core.names import check_key, check_name


@pytest.mark.parametrize("name", ["a", "order.ship", "cron:daily-report", "a/b_c", "x" * 128, "0"])
def test_a_plain_name_is_returned(name: str) -> None:
    assert check_name("queue", name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("x" * 129, "129 characters"),
        ("order ship", "' '"),
        ("ação", "\\\\xe7"),
        ("a\n", "\\\\n"),
        ("a\0", "\\\\x00"),
        ("\ud800", "\\\\ud800"),
        ('a"b', "'\"'"),
        ("a;drop table", "';'"),
        (None, "NoneType"),
        (b"a", "bytes"),
    ],
)
def test_any_other_name_is_a_usage_error_that_shows_the_culprit(name: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_name("queue", name)
    assert "queue" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("key", ["a", "order 7", "é" * 256, "x" * 512, " ", "e\u0301", "a\u2028b"])
def test_a_key_is_any_text_of_512_bytes(key: str) -> None:
    assert check_key("key", key) == key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "empty"),
        ("x" * 513, "513 bytes"),
        ("é" * 257, "514 bytes"),
        ("a\0b", "control"),
        ("tab\t", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\udcff", "surrogate"),
        (7, "int"),
        (None, "NoneType"),
    ],
)
def test_any_other_key_is_a_payload_error(key: Any, words: str) -> None:
    with pytest.raises(PayloadError, match=words) as caught:
        check_key("unique key", key)
    assert caught.value.subject == "unique key"
    str(caught.value).encode()
