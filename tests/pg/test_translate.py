"""What each error of the server means to us: one test per family of codes, on the real server where it can be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from chimpbase._core.errors import (
    CheckViolation,
    ChimpbaseError,
    ConfigError,
    ConstraintViolation,
    DatabaseError,
    ForeignKeyViolation,
    NotNullViolation,
    OutcomeUnknown,
    QueryError,
    SerializationConflict,
    StatementTimeout,
    StorageFull,
    UniqueViolation,
    Unreachable,
)
from chimpbase._pg.db import Db
from chimpbase._pg.translate import MEANING, connect_failure, is_transient, lost, translate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="test", size=2)
    await db.execute(
        "create table t (a int primary key, b int not null default 1 check (b > 0), c int references t,"
        " d int4range, exclude using gist (d with &&))"
    )
    yield db
    await db.close(grace=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("sql", "kind", "constraint"),
    [
        ("insert into t values (1), (1)", UniqueViolation, "t_pkey"),
        ("insert into t values (1, null)", NotNullViolation, None),
        ("insert into t values (1, 0)", CheckViolation, "t_b_check"),
        ("insert into t values (1, 1, 7)", ForeignKeyViolation, "t_c_fkey"),
        ("insert into t values (1, 1, 1, '[1,5)'), (2, 1, 1, '[4,6)')", CheckViolation, "t_d_excl"),
    ],
)
async def test_a_broken_constraint_is_named(
    db: Db, sql: str, kind: type[ConstraintViolation], constraint: str | None
) -> None:
    with pytest.raises(kind) as caught:
        await db.execute(sql)
    assert type(caught.value) is kind
    assert caught.value.constraint == constraint
    assert caught.value.table == "t"
    assert caught.value.detail
    assert not caught.value.transient
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("select * from nowhere", "42P01"),
        ("selec 1", "42601"),
        ("select nothing", "42703"),
        ("select no_function()", "42883"),
        ("select 1 / 0", "22012"),
        ("select 'a'::text::int", "22P02"),
        ("""select '{"a": '::text::jsonb""", "22P02"),
        ("select 9223372036854775807 + 1", "22003"),
        ("select chr(0)", "54000"),
        ("create table x (a int) inherits (nowhere)", "42P01"),
        ("select (select a from generate_series(1, 2) a)", "21000"),
        ("do $$ begin raise exception 'ours' using errcode = 'P0001', hint = 'Do this.'; end $$", "P0001"),
        ("alter system set work_mem to '1MB'; select 1", "25001"),
        ("set role nobody_at_all", "22023"),
        ("select lo_get(1)", "42704"),
        ("rollback to savepoint a", "25P01"),
    ],
)
async def test_a_wrong_statement_is_a_query_error(db: Db, sql: str, state: str) -> None:
    with pytest.raises(QueryError) as caught:
        await db.execute(sql)
    assert caught.value.sqlstate == state
    assert not caught.value.transient


async def test_a_forbidden_statement_says_who_may_help(db: Db) -> None:
    await db.execute("create role pauper")
    try:
        async with db.transaction() as connection:
            await connection.execute("set local role pauper")
            with pytest.raises(QueryError, match="Grant the privilege") as caught:
                await connection.execute("select * from t")
            assert caught.value.sqlstate == "42501"
            await connection.rollback()
            await connection.begin()
    finally:
        await db.execute("drop role pauper")


async def test_no_value_of_a_row_is_in_a_text_that_may_be_logged(db: Db) -> None:
    await db.execute("create table hidden (a text, b text, c int check (c > 0), primary key (a, b))")
    await db.execute("insert into hidden values ('se)cret', 'hidden', 1)")
    await db.execute("create table nobody (a text, b text, foreign key (a, b) references hidden)")
    for sql, *given in (
        ("insert into hidden values ($1, 'hidden', 1)", "se)cret"),
        ("insert into hidden values ($1, 'x', 0)", "se)cret"),
        ("insert into hidden values ($1, null, 1)", "se)cret"),
        ("insert into nobody values ($1, 'x')", "se) cret"),
        ("select $1::text::json", "se)cret"),
        ("select $1::text::int", "se)cret"),
    ):
        with pytest.raises(DatabaseError) as caught:
            await db.execute(sql, *given)
        assert "cret" not in str(caught.value)
        assert "violates" in str(caught.value) or "invalid input syntax for type" in str(caught.value)


async def test_message_detail_and_hint_of_the_server_are_kept(db: Db) -> None:
    with pytest.raises(QueryError, match=r"failed: What\. Why\. How\.$"):
        await db.execute("do $$ begin raise exception 'What' using detail = 'Why.', hint = 'How'; end $$")


async def test_an_error_with_a_code_of_its_own_keeps_it(db: Db) -> None:
    with pytest.raises(DatabaseError) as caught:
        await db.execute("do $$ begin raise exception 'full' using errcode = 'CB007'; end $$")
    assert type(caught.value) is DatabaseError
    assert caught.value.sqlstate == "CB007"


async def test_a_serialization_failure_is_transient(db: Db) -> None:
    await db.execute("insert into t values (1), (2)")
    async with db.acquire() as one, db.acquire() as two:
        for connection in (one, two):
            await connection.begin(isolation="serializable")
            await connection.fetch("select sum(b) from t")
        await one.execute("update t set b = 2 where a = 1")
        await two.execute("update t set b = 2 where a = 2")
        await one.commit()
        with pytest.raises(SerializationConflict) as caught:
            await two.commit()
    assert caught.value.sqlstate == "40001"
    assert is_transient(caught.value)


async def test_a_deadlock_is_transient(db: Db) -> None:
    await db.execute("insert into t values (1), (2)")

    async def swap(first: int, second: int) -> None:
        async with db.transaction() as connection:
            await connection.execute("set local deadlock_timeout to 10")
            await connection.execute("update t set b = 2 where a = $1", first)
            await both_hold_one.wait()
            await connection.execute("update t set b = 2 where a = $1", second)

    both_hold_one = asyncio.Barrier(2)
    results = await asyncio.gather(swap(1, 2), swap(2, 1), return_exceptions=True)
    (loser,) = (result for result in results if result is not None)
    assert isinstance(loser, SerializationConflict)
    assert loser.sqlstate == "40P01"
    assert loser.transient


async def test_a_cancelled_query_is_a_timeout(db: Db) -> None:
    async with db.transaction() as connection:
        await connection.execute("set local statement_timeout to 10")
        with pytest.raises(StatementTimeout) as caught:
            await connection.fetch("select pg_sleep(5)")
        assert caught.value.sqlstate == "57014"
        await connection.rollback()
        await connection.begin()


async def test_too_many_connections_are_transient(dsn: str, db: Db) -> None:
    name = dsn.split("/test_")[1].partition("?")[0]
    await db.execute(f"alter database test_{name} connection limit 0")
    await db.execute("create role stranger login")
    try:
        other = dsn.replace("://chimpbase@", "://stranger@").replace("://postgres@", "://stranger@")
        with pytest.raises(ChimpbaseError) as caught:
            await Db.open(other, application_name="test")
    finally:
        await db.execute("drop role stranger")
    # Where the server asks strangers for a password, that is the first refusal.
    if isinstance(caught.value, DatabaseError):
        assert caught.value.sqlstate == "53300"
        assert isinstance(caught.value, Unreachable)


@pytest.mark.parametrize(
    ("sql", "args", "fault"),
    [
        ("select $1::int", ("hunter2",), r"argument \$1: 'str' object"),
        ("select $1::text", (1,), r"argument \$1: expected str, got int"),
        ("select $1::smallint", (99999,), r"argument \$1: value out of int16 range"),
        ("select $1::text, $2::timestamptz", ("a", "hunter2"), r"argument \$2"),
        ("select $1::int[]", (5,), r"argument \$1"),
        ("select $1::text", ("\ud800",), r"argument \$1"),
        ("select $1::int", (), "expects 1 argument"),
        ("select 1", (5,), "expects 0 arguments"),
    ],
)
async def test_a_value_that_does_not_fit_is_named_by_its_place(
    db: Db, sql: str, args: tuple[object, ...], fault: str
) -> None:
    with pytest.raises(QueryError, match=fault) as caught:
        await db.fetch(sql, *args)
    assert "hunter2" not in str(caught.value)


async def test_a_text_postgresql_cannot_hold_is_a_query_error(db: Db) -> None:
    with pytest.raises(QueryError) as caught:
        await db.fetch("select $1::text", "a\0b")
    assert caught.value.sqlstate == "22021"


def server_error(state: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """An error as the driver makes it of what the server sends; for codes no test can provoke."""
    return asyncpg.PostgresError.new({"S": severity, "V": severity, "C": state, "M": "it is so"})


@pytest.mark.parametrize(
    ("state", "kind", "transient"),
    [
        ("08000", Unreachable, True),
        ("08P01", Unreachable, True),
        ("25006", Unreachable, True),
        ("25P03", StatementTimeout, True),
        ("26000", Unreachable, True),
        ("40001", SerializationConflict, True),
        ("40P01", SerializationConflict, True),
        ("40002", ConstraintViolation, False),
        ("40003", OutcomeUnknown, False),
        ("42P05", Unreachable, True),
        ("44000", CheckViolation, False),
        ("53100", StorageFull, True),
        ("53200", StorageFull, True),
        ("53300", Unreachable, True),
        ("55P03", StatementTimeout, True),
        ("55006", QueryError, False),
        ("57014", StatementTimeout, True),
        ("57P01", Unreachable, True),
        ("57P02", Unreachable, True),
        ("57P03", Unreachable, True),
        ("58030", StorageFull, True),
        ("XX000", DatabaseError, False),
    ],
)
async def test_each_code_has_its_meaning(state: str, kind: type[DatabaseError], transient: bool) -> None:
    error = translate(server_error(state), statement="Statement x")
    assert type(error) is kind
    assert is_transient(error) == transient
    assert isinstance(error, DatabaseError)
    assert error.sqlstate == state
    assert "it is so" in str(error)


async def test_the_last_word_of_the_server_explains_a_lost_connection() -> None:
    broken = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    broken.__cause__ = server_error("57P01", "FATAL")
    error = lost(broken, statement="Statement x")
    assert isinstance(error, Unreachable)
    assert error.sqlstate == "57P01"
    assert "it is so" in str(error)
    broken.__cause__ = server_error("25P03", "FATAL")
    assert isinstance(lost(broken, statement="Statement x"), StatementTimeout)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("no route"), Unreachable),
        (ConnectionRefusedError(), Unreachable),
        (TimeoutError(), Unreachable),
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), Unreachable),
        (asyncpg.InterfaceError("something else"), QueryError),
        (asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"), Unreachable),
        (asyncpg.InternalClientError("broken"), DatabaseError),
        (asyncpg.OutdatedSchemaCacheError("changed"), SerializationConflict),
        (ValueError("a codec"), DatabaseError),
        (QueryError("ours"), QueryError),
    ],
)
async def test_errors_of_the_driver_and_the_system_have_a_meaning(error: Exception, kind: type[ChimpbaseError]) -> None:
    assert type(translate(error)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (server_error("28P01", "FATAL"), ConfigError),
        (server_error("3D000", "FATAL"), ConfigError),
        (server_error("57P03", "FATAL"), Unreachable),
        (server_error("53300", "FATAL"), Unreachable),
        (server_error("XX000", "FATAL"), Unreachable),
        (TimeoutError(), Unreachable),
        (OSError("no route"), Unreachable),
        (asyncpg.ClientConfigurationError("sslmode"), ConfigError),
        (asyncpg.TargetServerAttributeNotMatched("None of the hosts match"), Unreachable),
    ],
)
async def test_a_failure_to_connect_is_the_servers_or_the_settings(
    error: Exception, kind: type[ChimpbaseError]
) -> None:
    failure = connect_failure(error, where="postgresql://u:***@h/d")
    assert type(failure) is kind
    assert "postgresql://u:***@h/d" in str(failure)


async def test_the_table_holds_states_and_classes_only() -> None:
    assert {len(key) for key in MEANING} == {2, 5}
    assert all(issubclass(kind, DatabaseError) for kind in MEANING.values())
