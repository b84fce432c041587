"""Foreign SQL: our statements, with `$1` and `$2`, in the words of another driver.

Invariant: literals, comments and quoted names reach the server as they were written. Deliberately absent: the types of
parameters, which only the server knows; what is cast to json on the spot is the one thing told from the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from chimpbase._core.errors import PayloadError, QueryError
from chimpbase._pg import lexer

#: How a driver has parameters written: `$1` or `%(p1)s`.
Style: TypeAlias = Literal["native", "named"]

_JSON: Final = frozenset({"json", "jsonb", "pg_catalog.json", "pg_catalog.jsonb"})


@dataclass(frozen=True, slots=True)
class _Parts:
    """A statement cut at its parameters: `texts` has one more than `numbers`, which are those between them."""

    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    json: frozenset[int]


def render(sql: str, args: Sequence[object], *, style: Style) -> tuple[str, Any]:
    """The statement and its parameters for a driver of that style; None for parameters when there are none.

    A dict, a list with a dict in it, and whatever is written `$1::jsonb` or `$1::json`, become JSON text.

    Raises:
        QueryError: the statement takes another number of values than it was given.
        PayloadError: a value cannot be JSON.
    """
    parts = _cut(sql)
    wanted = max(parts.numbers, default=0)
    if wanted != len(args):
        raise QueryError(f"{lexer.label(sql)} was not sent: it takes {wanted} values and was given {len(args)}.")
    if not args:
        return sql, None
    values = [_plain(value, number in parts.json) for number, value in enumerate(args, 1)]
    if style == "native":
        return sql, tuple(values)
    texts = [text.replace("%", "%%") for text in parts.texts]
    # in parentheses, because some drivers write the value there, and `-5::text` would be minus `5::text`
    marks = [f"(%(p{number})s)" for number in parts.numbers]
    return _join(texts, marks), {f"p{number}": value for number, value in enumerate(values, 1)}


def json_text(value: object) -> str:
    """A value as JSON text.

    Raises:
        PayloadError: it cannot be JSON.
    """
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise PayloadError(f"cannot be JSON: {error}", subject="parameter") from error


def _plain(value: object, as_json: bool) -> object:
    if value is not None and (as_json or _holds_objects(value)):
        return json_text(value)
    return value


def _holds_objects(value: object) -> bool:
    """Whether it can only be meant as JSON: no array of PostgreSQL has objects in it."""
    if isinstance(value, list | tuple):
        return any(map(_holds_objects, cast("Sequence[object]", value)))
    return isinstance(value, dict)


@lru_cache(maxsize=1024)
def _cut(sql: str) -> _Parts:
    texts: list[str] = []
    numbers: list[int] = []
    json: set[int] = set()
    place, before, cast_of = 0, 0, 0  # the number of the parameter just before, and of the one being cast
    for token in lexer.tokens(sql):
        if cast_of and token["word"] and _is_json(token["word"], sql[token.end() :]):
            json.add(cast_of)
        cast_of = before if token["cast"] else 0
        before = int(token["number"] or 0)
        if before:
            texts.append(sql[place : token.start()])
            numbers.append(before)
            place = token.end()
    texts.append(sql[place:])
    return _Parts(tuple(texts), tuple(numbers), frozenset(json))


def _is_json(word: str, rest: str) -> bool:
    return "".join(word.split()).lower() in _JSON and not rest.lstrip().startswith("[")


def _join(texts: Sequence[str], marks: Sequence[str]) -> str:
    return "".join(part for pair in zip(texts, [*marks, ""], strict=True) for part in pair)
