"""Start together: many programs on an empty database all come up, and every migration is applied once."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from chimpbase._pg.db import Db
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import MigrationSource
from tests.waiting import until

PROCESSES = 20
SOURCE = str(Path(__file__).resolve().parents[2] / "src")

PROGRAM = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from random import Random
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import check, migrate
from chimpbase._schema.source import own_source, read_source

async def main():
    sources = own_source(), read_source(Path(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.readline()
    db = await Db.open(sys.argv[1], application_name="starter", size=2)
    applied = [one for source in sources for one in await migrate(db, source=source, random=Random())]
    for source in sources:
        await check(db, source=source)
    await db.close(grace=timedelta(0))
    print(len(applied), flush=True)

asyncio.run(main())
"""


@pytest.mark.anyio
@pytest.mark.timeout(180)  # twenty interpreters start on whatever cores there are
async def test_twenty_processes_start_at_once_on_an_empty_database(
    db: Db, dsn: str, source: Callable[..., MigrationSource]
) -> None:
    app = source(
        "create table witness (n int generated always as identity, at timestamptz default now())",
        "insert into witness default values; select pg_sleep(0.2)",
        "-- chimpbase: no transaction\ncreate index concurrently if not exists witness_at on witness (at)",
        "insert into witness default values",
    )
    starters = [await _start(dsn, app.origin) for _ in range(PROCESSES)]
    try:
        assert [await _line(starter) for starter in starters] == ["ready"] * PROCESSES
        for starter in starters:
            assert starter.stdin
            starter.stdin.write(b"go\n")
        applied = [int(await _line(starter)) for starter in starters]
        codes = [await starter.wait() for starter in starters]
    finally:
        for starter in starters:
            if starter.returncode is None:
                starter.kill()
                await starter.wait()
    assert codes == [0] * PROCESSES
    assert sum(applied) == await db.fetch_value("select count(*) from chimpbase.migration")
    assert await db.fetch_value("select count(*) from witness") == 2
    assert await db.fetch(
        "select scope, array_agg(number order by applied_at) = array_agg(number order by number) "
        "from chimpbase.migration group by scope"
    ) == [("app", True), ("chimpbase", True)]


@pytest.mark.anyio
async def test_a_process_killed_while_it_migrates_holds_nobody_up(
    db: Db, dsn: str, source: Callable[..., MigrationSource]
) -> None:
    app = source(
        "create table witness (n int); insert into witness values (1);"
        "select pg_sleep(case when current_setting('application_name') = 'starter' then 40 else 0 end)"
    )
    doomed = await _start(dsn, app.origin)
    try:
        assert await _line(doomed) == "ready"
        assert doomed.stdin
        doomed.stdin.write(b"go\n")
        await until(lambda: db.fetch_value("select count(*) from pg_stat_activity where wait_event = 'PgSleep'"))
        waiting = asyncio.create_task(migrate(db, source=app, random=Random()))
        await asyncio.sleep(0)
        assert not waiting.done()
    finally:
        doomed.kill()
        await doomed.wait()
    assert [one.number for one in await waiting] == [1]
    assert await db.fetch_value("select count(*) from witness") == 1


async def _start(dsn: str, directory: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, dsn, directory, stdin=PIPE, stdout=PIPE, env=os.environ | {"PYTHONPATH": SOURCE}
    )


async def _line(process: Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode().strip() or "nothing"
