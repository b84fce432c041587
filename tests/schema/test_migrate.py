from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import TypeAlias

import pytest

from chimpbase._core.errors import ConfigError, SchemaError, SchemaOutdated, SchemaTooNew, StatementTimeout
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import check, migrate, pending
from chimpbase._schema.source import MigrationSource, own_source
from tests.waiting import until

pytestmark = pytest.mark.anyio

Source: TypeAlias = Callable[..., MigrationSource]


async def _tables(db: Db) -> list[str]:
    return [row["name"] for row in await db.fetch("select relname as name from pg_class where relname ~ '^t[0-9]$'")]


async def test_an_empty_database_gets_all_migrations_in_order(db: Db, source: Source) -> None:
    two = source("create table t1 (a int)", "alter table t1 rename to t2; -- done")
    applied = await migrate(db, source=two, random=Random())
    assert [(one.scope, one.number, one.file_name) for one in applied] == [
        ("app", 1, "0001_do_something.sql"),
        ("app", 2, "0002_do_something.sql"),
    ]
    assert await _tables(db) == ["t2"]


async def test_our_own_migrations_apply(db: Db) -> None:
    own = own_source()
    assert len(await migrate(db, source=own, random=Random())) == len(own.migrations)
    await check(db, source=own)


async def test_a_second_run_applies_nothing(db: Db, source: Source) -> None:
    one = source("create table t1 (a int)")
    await migrate(db, source=one, random=Random())
    assert await migrate(db, source=one, random=Random()) == []


async def test_only_what_is_new_is_applied(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 ()"), random=Random())
    applied = await migrate(db, source=source("create table t1 ()", "create table t2 ()"), random=Random())
    assert [one.number for one in applied] == [2]


async def test_a_current_database_costs_one_statement(db: Db, dsn: str, source: Source) -> None:
    one = source("create table t1 (a int)")
    await migrate(db, source=one, random=Random())
    hook = _Recorder()
    watched = await Db.open(dsn, application_name="test", hook=hook)
    await migrate(watched, source=one, random=Random())
    await watched.close(grace=timedelta(0))
    assert len(hook.statements) == 1


async def test_scopes_do_not_see_each_other(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 ()", scope="app"), random=Random())
    await migrate(db, source=source("create table t2 ()", scope="plugin"), random=Random())
    assert sorted(await _tables(db)) == ["t1", "t2"]


async def test_check_names_what_is_pending_and_changes_nothing(db: Db, source: Source) -> None:
    two = source("create table t1 ()", "create table t2 ()", names=("add_a", "add_b"))
    with pytest.raises(SchemaOutdated, match="lacks 2 migrations of 'app': 0001_add_a.sql, 0002_add_b.sql"):
        await check(db, source=two)
    assert [migration.number for migration in await pending(db, source=two)] == [1, 2]
    assert await db.fetch_value("select to_regnamespace('chimpbase') is null")


async def test_check_accepts_a_current_database(db: Db, source: Source) -> None:
    one = source("create table t1 ()")
    await migrate(db, source=one, random=Random())
    await check(db, source=one)
    assert await pending(db, source=one) == []


async def test_a_database_newer_than_the_code_is_refused(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 ()", "create table t2 ()"), random=Random())
    old = source("create table t1 ()")
    for act in (migrate(db, source=old, random=Random()), check(db, source=old), pending(db, source=old)):
        with pytest.raises(SchemaTooNew, match="0002_do_something.sql of 'app'.* knows 1 of them"):
            await act


async def test_an_edited_file_is_refused_with_the_way_out(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 ()"), random=Random())
    edited = source("create table t1 (a int)", "create table t2 ()")
    with pytest.raises(SchemaOutdated, match="0001_do_something.sql .* was edited .* into a new migration 0003_"):
        await migrate(db, source=edited, random=Random())
    assert await _tables(db) == ["t1"]


async def test_another_file_under_an_applied_number_is_refused_with_both_names(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 ()", names=("add_a",)), random=Random())
    with pytest.raises(SchemaOutdated, match="is 0001_add_b.sql in .* got 0001_add_a.sql under that number"):
        await migrate(db, source=source("create table t2 ()", names=("add_b",)), random=Random())


async def test_a_failing_migration_leaves_nothing_and_names_its_line(db: Db, source: Source) -> None:
    three = source(
        "create table t1 ()", "-- Two.\n\ncreate table t2 ();\ninsert into t1\nvalues (1);", "create table t3 ()"
    )
    with pytest.raises(SchemaError, match=r"0002_do_something.sql failed at line 4 \(statement 2 of 2\)") as caught:
        await migrate(db, source=three, random=Random())
    assert "INSERT has more expressions than target columns" in str(caught.value)
    assert caught.value.sqlstate == "42601"
    assert await _tables(db) == ["t1"]
    assert [migration.number for migration in await pending(db, source=three)] == [2, 3]


async def test_a_file_that_commits_is_refused_before_anything_is_applied(db: Db, source: Source) -> None:
    with pytest.raises(ConfigError, match="0002_do_something.sql, line 1: `commit`"):
        await migrate(db, source=source("create table t1 ()", "commit"), random=Random())
    assert await _tables(db) == []


async def test_settings_of_a_migration_do_not_outlive_it(db: Db, source: Source) -> None:
    one = source("set search_path = nowhere; select set_config('work_mem', '65kB', false); create table public.t1 ()")
    before = await db.fetch_value("show search_path"), await db.fetch_value("show work_mem")
    await migrate(db, source=one, random=Random())
    assert (await db.fetch_value("show search_path"), await db.fetch_value("show work_mem")) == before


async def test_a_role_of_a_migration_does_not_outlive_it(db: Db, source: Source) -> None:
    before = await db.fetch_value("select current_user")
    await migrate(db, source=source("set role pg_read_all_data"), random=Random())
    assert await db.fetch_value("select current_user") == before


async def test_a_migration_steps_aside_for_an_open_transaction_and_comes_back(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 (a int)"), random=Random())
    two = source("create table t1 (a int)", "alter table t1 add b int")
    async with db.acquire() as reader:
        await reader.begin()
        await reader.fetch("select a from t1")
        migration = asyncio.create_task(migrate(db, source=two, random=Random()))
        waits = "select count(*) from pg_locks where relation = 't1'::regclass and not granted"
        await until(lambda: db.fetch_value(waits))
        await until(lambda: _is_zero(db, waits))  # it gave up its place, so the application can go on
        assert not migration.done()
        await reader.rollback()
    assert [one.number for one in await migration] == [2]


async def _is_zero(db: Db, sql: str) -> bool:
    return await db.fetch_value(sql) == 0


async def test_patience_ends(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 (a int)"), random=Random())
    two = source("create table t1 (a int)", "alter table t1 add b int")
    async with db.acquire() as reader:
        await reader.begin()
        await reader.fetch("select a from t1")
        with pytest.raises(StatementTimeout, match="0002_do_something.sql got no chance within 1 s"):
            await migrate(db, source=two, random=Random(), patience=timedelta(seconds=1))


async def test_a_concurrent_index_is_built_outside_a_transaction(db: Db, source: Source) -> None:
    two = source(
        "create table t1 (a int); insert into t1 select generate_series(1, 1000)",
        "-- chimpbase: no transaction\ncreate index concurrently if not exists t1_a on t1 (a);\nanalyze t1;",
    )
    await migrate(db, source=two, random=Random())
    assert await db.fetch_value("select indisvalid from pg_index where indexrelid = 't1_a'::regclass")
    await check(db, source=two)


async def test_a_concurrent_index_is_built_while_others_wait_to_migrate(dsn: str, source: Source) -> None:
    two = source(
        "create table t1 (a int)",
        "-- chimpbase: no transaction\ncreate index concurrently t1_a on t1 (a);",
    )
    dbs = [await Db.open(dsn, application_name="test", size=2) for _ in range(5)]
    applied = await asyncio.gather(*(migrate(db, source=two, random=Random()) for db in dbs))
    await asyncio.gather(*(db.close(grace=timedelta(0)) for db in dbs))
    assert sorted(one.number for each in applied for one in each) == [1, 2]


async def test_what_a_broken_concurrent_build_left_is_found(db: Db, source: Source) -> None:
    await migrate(db, source=source("create table t1 (a int); insert into t1 values (1), (1)"), random=Random())
    two = source(
        "create table t1 (a int); insert into t1 values (1), (1)",
        "-- chimpbase: no transaction\n\ncreate unique index concurrently if not exists t1_a on t1 (a);",
    )
    with pytest.raises(SchemaError, match=r"line 3 \(statement 1 of 1\).* Its statements before that one stay"):
        await migrate(db, source=two, random=Random())
    with pytest.raises(SchemaError, match="drop index concurrently t1_a"):
        await migrate(db, source=two, random=Random())
    await db.execute("delete from t1")
    await db.execute("drop index t1_a")
    assert [one.number for one in await migrate(db, source=two, random=Random())] == [2]


async def test_a_user_without_privileges_is_told_what_to_run(db: Db, dsn: str, source: Source) -> None:
    role = "visitor_" + dsn.rpartition("test_")[2][:8]
    await db.execute(f"create role {role}")
    visitor = await Db.open(dsn, application_name="test", session={"role": role})
    one = source("select 1")
    try:
        with pytest.raises(SchemaError, match=f'grant usage, create on schema chimpbase to "{role}"') as caught:
            await migrate(visitor, source=one, random=Random())
        assert f"User '{role}' may not create the schema" in str(caught.value)
        await migrate(db, source=one, random=Random())
        with pytest.raises(SchemaError, match=f'grant select on chimpbase.migration to "{role}"'):
            await check(visitor, source=one)
        await db.execute(f"grant usage on schema chimpbase to {role}")
        await db.execute(f"grant select on chimpbase.migration to {role}")
        await check(visitor, source=one)
        assert await migrate(visitor, source=one, random=Random()) == []
    finally:
        await visitor.close(grace=timedelta(0))
        await db.execute(f"drop owned by {role}")
        await db.execute(f"drop role {role}")


class _Recorder:
    """A statement hook that remembers."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def before(self, sql: str, args: Sequence[object]) -> None:
        self.statements.append(sql)

    def after(self, sql: str, error: BaseException | None) -> None:
        pass
