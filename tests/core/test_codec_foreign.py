"""JSON from outside is read strictly: what is read can be stored."""

from __future__ import annotations

from typing import Any

import pytest

from chimpbase._core.codec import decode_json
from chimpbase._core.errors import PayloadError


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', '"a" twice'),
        (b'{"x": [{"a": 1, "b": 1, "a": 2}]}', '"a" twice'),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e400", "inf"),
        (b"9223372036854775808", "2^63"),
        (b"1" + b"0" * 5000, "2^63"),
        (b'"\\u0000"', "U+0000"),
        (b'{"\\u0000": 1}', "U+0000"),
        (b'"\\ud800"', "U+D800"),
        (b'"\xff"', "UTF-8"),
        (b"[" * 101 + b"]" * 101, "100 levels"),
        (b"[" * 100_000, "100 levels"),
        (b'{"a":' * 100_000, "100 levels"),
        (b"", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"1 2", "not valid JSON"),
        (b"\xef\xbb\xbf1", "not valid JSON"),
        (b" " * 1_048_577, "the limit is"),
    ],
)
def test_a_foreign_document_is_read_strictly(text: bytes, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_json(text, subject="body")
    assert words in str(caught.value)


def test_a_good_foreign_document_is_read() -> None:
    text = '{"a": [1, 1.0, 1e2, -0.0, "\\ud83d\\ude00", null, true], "]}[{": {}}'
    assert decode_json(text.encode(), subject="body") == {"a": [1, 1.0, 100.0, 0.0, "😀", None, True], "]}[{": {}}
    assert decode_json(b"[" * 99 + b"[1]" + b"]" * 99, subject="body") == nested(100)
