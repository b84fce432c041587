"""The sweeper: expired pairs go, others and locked ones stay, and nobody waits for it."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import asyncpg
import pytest

from chimpbase import App
from chimpbase._engine.sweeper import Sweeper
from chimpbase._pg.db import Db
from tests.running import Start

pytestmark = pytest.mark.anyio

FILL = """
insert into chimpbase.kv (cached, namespace, key, value, expires_at)
select n % 2 = 0, case when n % 10 = 0 then '(lock)' else '' end, n::text, '1',
  case when n % 3 = 0 then now() - interval '1 minute' when n % 3 = 1 then now() + interval '1 hour' end
from generate_series(1, 3000) as n
"""


async def test_expired_pairs_go_and_nothing_else(start: Start, outside: asyncpg.Connection, dsn: str) -> None:
    async with start(App("sweep"), workers=False):
        await outside.execute(FILL)
        holder = await asyncpg.connect(dsn)
        locked = holder.transaction()
        await locked.start()
        await holder.execute("select from chimpbase.kv where key = '3' for update")
        db = await Db.open(dsn, application_name="test", size=1)
        sweeper = Sweeper(db, every_s=60, clock=lambda: 0.0, random=Random(1).random)
        while (rest_s := await sweeper.tick()) == 0.05:
            pass
        assert rest_s is not None
        assert 45 <= rest_s <= 75
        rows = await outside.fetch("select key, namespace, expires_at < now() as expired from chimpbase.kv")
        kept = {row["key"] for row in rows if row["expired"]}
        assert kept == {"3"} | {str(n) for n in range(30, 3001, 30)}, "locked, and locks that ended just now"
        assert len(rows) == 2000 + len(kept)
        await locked.rollback()
        await sweeper.tick()
        assert await outside.fetchval("select count(*) from chimpbase.kv where key = '3'") == 0
        await db.close(grace=timedelta(0))
        await holder.close()
