"""Reading while others write: nothing is lost, doubled or out of its key's order, whichever transaction commits when.

The writers take a row lock for each key before they append, so a key's numbers are its true order. They pause between
that and their commit, and some of them roll back.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from random import Random

import asyncpg
import pytest

from chimpbase import App, Stream
from tests.running import Start
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

KEYS, WRITERS, PER_WRITER, PER_COMMIT = 8, 12, 115, 27
log = Stream("log", list[int])

_COUNT = "update counter set n = n + $2 where key = $1 returning n"
_APPEND = """
select cardinality(ids) from chimpbase.append_entries(
  'log', array(select format('[%s,%s]', $1::int, n) from generate_series($2::int, $3::int) n order by n),
  array_fill($1::text, array[$3 - $2 + 1]), null, null)
"""


async def _write(dsn: str, seed: int) -> None:
    random, connection = Random(seed), await asyncpg.connect(dsn)
    for _ in range(PER_WRITER):
        transaction = connection.transaction()
        await transaction.start()
        if random.random() < 0.5:
            await connection.execute("select pg_current_xact_id()")  # early, so that its number tells nothing of order
        key, entries = random.randrange(KEYS), random.randint(1, 2 * PER_COMMIT - 1)
        last = await connection.fetchval(_COUNT, key, entries)
        await connection.execute(_APPEND, key, last - entries + 1, last)
        await connection.execute(
            "select pg_sleep($1)", random.choice([0.0, 0.0, 0.0, 0.002, 0.02, 0.1 * random.random()])
        )
        await (transaction.rollback() if random.random() < 0.1 else transaction.commit())
    await connection.close()


async def _read(app: App, seen: list[list[int]], done: asyncio.Event, limit: int) -> None:
    after: str | None = None
    while True:
        ended = done.is_set()
        page = await app.ctx.stream.read(log, after=after, limit=limit)
        seen += [entry.payload for entry in page]
        after = page[-1].position if page else after
        if ended and not page:
            return


async def _tail(app: App, seen: list[list[int]], start: str | None) -> None:
    async for entry in app.ctx.stream.tail(log, after=start):
        seen += [entry.payload]


# How others read a log. Each is wrong; were one of them right here, this experiment could not tell a right one either.
_ABOVE_THE_LAST_ID = "id > $1 and $2::bigint is not null"
_AND_OLDER_THAN_ALL_THAT_RUNS = "id > $1 and $2::bigint is not null and xid < pg_snapshot_xmin(pg_current_snapshot())"
_BY_TRANSACTION = "(xid, id) > ($2::bigint::text::xid8, $1) and xid < pg_snapshot_xmin(pg_current_snapshot())"


async def _read_wrongly(dsn: str, condition: str, order: str, seen: list[list[int]], done: asyncio.Event) -> None:
    connection, id, xid = await asyncpg.connect(dsn), 0, 0
    page = f"select id, xid::text, payload from chimpbase.entry where {condition} order by {order} limit 500"
    while True:
        ended = done.is_set()
        rows = await connection.fetch(page, id, xid)
        seen += [json.loads(row["payload"]) for row in rows]
        if rows:
            id, xid = rows[-1]["id"], int(rows[-1]["xid"])
        elif ended:
            return await connection.close()
        else:
            await connection.execute("select pg_sleep(0.002)")


def _judge(seen: list[list[int]], total: int) -> tuple[int, int]:
    """How many entries a reader has lost, and how many came before one of the same key that was written earlier."""
    highest: defaultdict[int, int] = defaultdict(int)
    disordered = 0
    for key, n in seen:
        disordered += n < highest[key]
        highest[key] = max(n, highest[key])
    return total - len({(key, n) for key, n in seen}), disordered


async def test_every_reader_gets_every_entry_once_and_each_key_in_its_order(
    start: Start, outside: asyncpg.Connection, dsn: str
) -> None:
    await outside.execute("create table counter as select key, 0 as n from generate_series(0, $1 - 1) key", KEYS)
    app, done = App("log", register=[log]), asyncio.Event()
    readers: list[list[list[int]]] = [[] for _ in range(4)]
    naive: list[list[int]] = []
    patient: list[list[int]] = []
    by_transaction: list[list[int]] = []
    async with start(app), asyncio.TaskGroup() as tasks:
        tail = tasks.create_task(_tail(app, readers[3], await app.ctx.stream.position(log)))
        for seen, limit in zip(readers, (7, 100, 5000), strict=False):
            tasks.create_task(_read(app, seen, done, limit))
        for condition, order, seen in (
            (_ABOVE_THE_LAST_ID, "id", naive),
            (_AND_OLDER_THAN_ALL_THAT_RUNS, "id", patient),
            (_BY_TRANSACTION, "xid, id", by_transaction),
        ):
            tasks.create_task(_read_wrongly(dsn, condition, order, seen, done))
        writing = [tasks.create_task(_write(dsn, seed)) for seed in range(WRITERS)]
        await asyncio.wait(writing)
        written = dict(await outside.fetch("select key, n from counter"))
        total = sum(written.values())
        done.set()
        await until(lambda: len(readers[3]) == total, deadline_s=30)
        tail.cancel()
    assert total > 30_000
    for seen in readers:
        by_key: defaultdict[int, list[int]] = defaultdict(list)
        for key, n in seen:
            by_key[key].append(n)
        assert {key: len(numbers) for key, numbers in by_key.items()} == written
        assert all(numbers == list(range(1, written[key] + 1)) for key, numbers in by_key.items())
        assert _judge(seen, total) == (0, 0)
    assert _judge(naive, total)[0] > 0
    assert _judge(patient, total)[0] > 0
    lost, disordered = _judge(by_transaction, total)
    assert lost == 0
    assert disordered > 0
