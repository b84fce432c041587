"""Statements in `.sql` files, and what is told of a statement from its text."""

from __future__ import annotations

import string
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.errors import UsageError
from chimpbase._pg import lexer
from chimpbase._pg.db import Db
from chimpbase._pg.statements import Statements, parse

FILE = """
-- Jobs: a header that belongs to no statement. :not_a_parameter

-- name: claim
-- Lease up to `max_jobs` jobs of :queue to one process.
select :queue::text as queue, ':literal' as "a :column", $$ :body $$ as body, /* :comment /* nested :one */ :two */
  now()::timestamptz as at, -- :tail
  :max_jobs::int as max_jobs, :queue || e'\\':no', (array[1, 2])[1 : 2]
from generate_series(1, 2);

-- name: get
select 1
"""


def parsed(text: str) -> Statements:
    return parse(text, origin="jobs.sql")


def test_parameters_are_numbered_by_first_appearance() -> None:
    claim = parsed(FILE).claim
    assert claim.parameters == ("queue", "max_jobs")
    assert "$1::text as queue" in claim.sql
    assert "$2::int as max_jobs, $1 || " in claim.sql


def test_literals_comments_casts_and_quoted_names_are_left_alone() -> None:
    sql = parsed(FILE).claim.sql
    for text in ("':literal'", '"a :column"', "$$ :body $$", "::timestamptz", r"e'\':no'", "[1 : 2]", ":two */"):
        assert text in sql


def test_a_statement_starts_with_its_name_and_ends_without_semicolon() -> None:
    statements = parsed(FILE)
    assert statements.claim.sql.startswith("/* jobs.claim */ select")
    assert statements.claim.sql.endswith("from generate_series(1, 2)")
    assert statements.get.sql == "/* jobs.get */ select 1"
    assert list(statements) == ["claim", "get"]
    assert len(statements) == 2
    assert "get" in statements
    assert statements["get"] is statements.get


def test_bind_gives_sql_and_arguments_in_order() -> None:
    claim = parsed(FILE).claim
    assert claim.bind(max_jobs=3, queue="mail") == (claim.sql, "mail", 3)
    assert parsed(FILE).get.bind() == ("/* jobs.get */ select 1",)
    one = parsed("-- name: one\nselect :a").one
    assert one.bind(a=[1, 2]) == ("/* jobs.one */ select $1", [1, 2])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"queue": 1}, "lacks max_jobs"),
        ({"queue": 1, "max_jobs": 1, "limit": 1}, "does not know limit"),
        ({"queue": 1, "max_job": 1}, "lacks max_jobs and does not know max_job"),
    ],
)
def test_a_wrong_set_of_values_is_named(values: dict[str, int], fault: str) -> None:
    with pytest.raises(TypeError, match=f"'claim' {fault}; parameters: queue, max_jobs"):
        parsed(FILE).claim.bind(**values)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("-- name: a\nselect 1;\n-- name: a\nselect 2;", "two statements named 'a'"),
        ("-- name: two words\nselect 1", "names a statement 'two words'"),
        ("-- name:\nselect 1", "a name is a Python identifier"),
        ("-- name: a\n-- only a comment\n", "jobs.a is empty"),
        ("-- name: a\nselect 1; select 2", "more than one statement"),
        ("-- name: a\nselect $1", r"uses `\$1`"),
        ("select 1", "holds no statement"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        parsed(text)


def test_an_unknown_statement_is_an_attribute_error_that_lists_the_known() -> None:
    with pytest.raises(AttributeError, match="has no statement 'claims'; it has: claim, get"):
        parsed(FILE).claims  # noqa: B018


@pytest.mark.anyio
async def test_a_loaded_statement_runs_on_the_server(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test")
    async with db.acquire() as connection:
        rows = await connection.fetch(*parsed(FILE).claim.bind(queue="mail", max_jobs=3))
        assert [(row["queue"], row["max_jobs"], row["a :column"]) for row in rows] == [("mail", 3, ":literal")] * 2
    await db.close(grace=timedelta(seconds=1))


READING = [
    "select 1",
    "/* kv.get */ select value from kv where key = $1",
    "-- a comment\nselect count(*), max(id) from t where a in (1, 2) and (b or c)",
    "with k (key) as (select unnest($1::text[])) select * from k",
    "values (1), (2)",
    "show server_version",
    "table t",
    "begin isolation level serializable",
    "rollback to savepoint a",
    "select 'delete from t; insert' as text, \"update\" from t",
    "select x.* from unnest($1::text[]) as x (a);",
]
WRITING = [
    "insert into t values (1)",
    "with gone as (delete from t returning *) select * from gone",
    "select chimpbase.enqueue('a', '{}')",
    "select my_function()",
    "select * from t for update",
    "select 1; call work()",
    "select * into u from t",
    "commit",
    "call work()",
    "explain analyze delete from t",
    "",
    "select nextval('s')",
]


@pytest.mark.parametrize("sql", READING)
def test_a_statement_that_can_only_read_is_known(sql: str) -> None:
    assert lexer.only_reads(sql)


@pytest.mark.parametrize("sql", WRITING)
def test_a_statement_that_may_write_is_known(sql: str) -> None:
    assert not lexer.only_reads(sql)


@pytest.mark.parametrize(
    ("sql", "commits"),
    [
        ("commit", True),
        ("/* a */ COMMIT and chain", True),
        ("end", True),
        ("insert into t values (1); commit", True),
        ("prepare transaction 'a'", True),
        ("select 'a; commit'", False),
        ("rollback", False),
        ("select case when a then 1 end from t", False),
    ],
)
def test_a_statement_that_may_commit_is_known(sql: str, commits: bool) -> None:
    assert lexer.may_commit(sql) == commits


def test_a_label_is_the_name_or_the_beginning() -> None:
    assert lexer.label("/* jobs.claim */ select 1") == "jobs.claim"
    assert lexer.label("select\n  1") == "`select 1`"
    assert lexer.label("select " + "x" * 500) == f"`select {'x' * 53}...`"


@given(st.text(alphabet=string.printable + "é:$'\"/*-\\"))
def test_any_text_has_tokens_and_an_end(text: str) -> None:
    for token in lexer.tokens(text):
        assert text[token.start() : token.end()] == token[0]
    lexer.only_reads(text)
    lexer.may_commit(text)
    assert len(lexer.label(text)) < 120
