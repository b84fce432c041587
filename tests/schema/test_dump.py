from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

import chimpbase._schema
from chimpbase._pg.db import Db
from chimpbase._schema.dump import dump
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import own_source

pytestmark = pytest.mark.anyio

SCHEMA_FILE = Path(chimpbase._schema.__file__).with_name("schema.sql")


async def test_the_schema_file_is_what_the_migrations_make(db: Db) -> None:
    await migrate(db, source=own_source(), random=Random())
    text = await dump(db)
    if os.environ.get("CHIMPBASE_WRITE_SCHEMA"):
        SCHEMA_FILE.write_text(text, encoding="utf-8")
    assert SCHEMA_FILE.read_text(encoding="utf-8") == text, "run `make schema` and commit what it wrote"


async def test_each_kind_of_thing_is_in_the_dump(db: Db) -> None:
    await db.execute("create schema chimpbase")
    things = [
        "create type chimpbase.mood as enum ('sad', 'it''s ok')",
        "create sequence chimpbase.ids as bigint increment 32 cache 8",
        "create table chimpbase.parent (id int primary key, made date not null unique check (made > '2020-01-01'))",
        """create unlogged table chimpbase.cache (
          n numeric(10, 2) default 1.5, doubled numeric generated always as (n * 2) stored,
          parent int references chimpbase.parent (id)
        ) with (fillfactor = 70)""",
        "create index cache_big on chimpbase.cache (n desc) where n > 100",
        "create table chimpbase.log (at timestamptz) partition by range (at)",
        "create table chimpbase.log_other partition of chimpbase.log default",
        "create table chimpbase.log_day partition of chimpbase.log for values from ('2026-01-01') to ('2026-01-02')",
        "create function chimpbase.one() returns int language sql as $$ select 1 $$",
        "create function chimpbase.note() returns trigger language plpgsql as $$ begin return new; end $$",
        "create trigger note before insert on chimpbase.cache for each row execute function chimpbase.note()",
        "create view chimpbase.ones as select 1 as one",
        "comment on table chimpbase.cache is 'Things that may go.'",
        "comment on column chimpbase.cache.n is 'How many.'",
    ]
    for thing in things:
        await db.execute(thing)
    text = await dump(db)
    expected = [
        "create type chimpbase.mood as enum ('sad', 'it''s ok');",
        "create sequence chimpbase.ids as bigint increment 32 cache 8;",
        "constraint parent_made_key UNIQUE (made)",
        "constraint parent_made_check CHECK ((made > '2020-01-01'::date))",
        "create unlogged table chimpbase.cache (",
        "  n numeric(10,2) default 1.5,",
        "  doubled numeric generated always as ((n * (2)::numeric)) stored,",
        "constraint cache_parent_fkey FOREIGN KEY (parent) REFERENCES chimpbase.parent(id)",
        ") with (\n  fillfactor=70\n);",
        "CREATE INDEX cache_big ON chimpbase.cache USING btree (n DESC) WHERE (n > (100)::numeric);",
        ") partition by range (at);",
        "create table chimpbase.log_other partition of chimpbase.log default;",
        "CREATE OR REPLACE FUNCTION chimpbase.one()",
        "CREATE TRIGGER note BEFORE INSERT ON chimpbase.cache",
        "create view chimpbase.ones as",
        "comment on table chimpbase.cache is 'Things that may go.';",
        "comment on column chimpbase.cache.n is 'How many.';",
    ]
    assert [line for line in expected if line not in text] == []
    assert "log_day" not in text


async def test_the_dump_does_not_depend_on_the_order_of_making(db: Db) -> None:
    await db.execute("create schema chimpbase")
    await db.execute("create table chimpbase.a (x int unique, y int, check (x > 1), check (y > 1))")
    await db.execute("create table chimpbase.b (x int)")
    first = await dump(db)
    await db.execute("drop schema chimpbase cascade")
    await db.execute("create schema chimpbase")
    await db.execute("create table chimpbase.b (x int)")
    await db.execute("create table chimpbase.a (x int, dropped int, y int)")
    await db.execute("alter table chimpbase.a add check (y > 1)")
    await db.execute("alter table chimpbase.a add check (x > 1), add unique (x), drop dropped")
    assert await dump(db) == first
