"""Foreign SQL: statements in the words of other drivers, with every literal left alone."""

from __future__ import annotations

from typing import Any

import pytest

from chimpbase._core.errors import PayloadError, QueryError
from chimpbase._pg.foreign_sql import render


@pytest.mark.parametrize(
    ("sql", "args", "named"),
    [
        ("select $1", (1,), "select (%(p1)s)"),
        ("select $2, $1, $2", (1, 2), "select (%(p2)s), (%(p1)s), (%(p2)s)"),
        ("select $1 % 2, '5%'", (1,), "select (%(p1)s) %% 2, '5%%'"),
        ("select '$1', $1 -- $2", (1,), "select '$1', (%(p1)s) -- $2"),
        ("select $$ $1 $$, $1", (1,), "select $$ $1 $$, (%(p1)s)"),
        ("/* $9 /* $8 */ */ select $1", (1,), "/* $9 /* $8 */ */ select (%(p1)s)"),
        ('select "$1" :: text, $1::text', ("a",), 'select "$1" :: text, (%(p1)s)::text'),
    ],
)
def test_parameters_are_written_as_the_driver_wants_them(sql: str, args: Any, named: str) -> None:
    assert render(sql, args, style="native") == (sql, args)
    assert render(sql, args, style="named") == (named, {f"p{n}": value for n, value in enumerate(args, 1)})


@pytest.mark.parametrize("style", ["native", "named"])
def test_without_parameters_the_text_is_left_alone(style: Any) -> None:
    assert render("select '100%', 7 % 2", (), style=style) == ("select '100%', 7 % 2", None)


@pytest.mark.parametrize(
    ("sql", "value", "sent"),
    [
        ("select $1::jsonb", "text", '"text"'),
        ("select $1 :: json", 5, "5"),
        ("select $1::pg_catalog.jsonb", [1], "[1]"),
        ("select $1::JSONB", None, None),
        ("select $1", {"a": [None]}, '{"a":[null]}'),
        ("select $1", [{"a": 1}], '[{"a":1}]'),
        ("select $1", [1, 2], [1, 2]),
        ("select $1::jsonb []", [1], [1]),
        ("select $1, x::jsonb", "text", "text"),
        ("select ($1)::jsonb", "null", "null"),
    ],
)
def test_what_can_only_be_json_is_sent_as_json(sql: str, value: object, sent: object) -> None:
    assert render(sql, (value,), style="native")[1] == (sent,)


def test_what_cannot_be_json_is_refused() -> None:
    with pytest.raises(PayloadError, match="cannot be JSON"):
        render("select $1::jsonb", (object(),), style="named")


@pytest.mark.parametrize(("sql", "args"), [("select $1", ()), ("select 1", (1,)), ("select $2", (1,))])
def test_a_wrong_number_of_values_is_refused(sql: str, args: Any) -> None:
    with pytest.raises(QueryError, match="values and was given"):
        render(sql, args, style="named")
