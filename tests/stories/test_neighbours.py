"""Different apps on one database, as in any rolling deploy: none steals or deletes what it does not know."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Occurrence, Queue, Wf
from tests.running import Start, is_idle, notes, the_value
from tests.stories.fleet import fleet_of
from tests.waiting import until

pytestmark = pytest.mark.anyio

happened = Event("happened", str)
#: Everything that a process declares in the database.
DECLARED = """
  select array_agg(name order by name) from (
    select name from chimpbase.queue union all select name from chimpbase.subscription
    union all select name from chimpbase.schedule union all select name from chimpbase.workflow) declared
"""


def app_of(name: str) -> App:
    """An app with a queue, a subscription, a cron and a workflow, all named after it."""
    app = App(name)

    async def note(ctx: Ctx, text: str) -> None:
        await ctx.db.execute("insert into ledger values ($1, $2)", name, f"{name} {text}")

    @app.worker(Queue(f"{name}.queue", str))
    async def work(ctx: Ctx, text: str) -> None:
        await note(ctx, text)

    @app.subscribe(happened, name=f"{name}.subscription")
    async def on_happened(ctx: Ctx, text: str) -> None:
        await note(ctx, text)

    @app.cron("0 0 1 1 *", name=f"{name}.cron")
    async def yearly(ctx: Ctx, due: Occurrence) -> None:
        await note(ctx, "happy new year")

    @app.workflow(f"{name}.workflow")
    async def flow(wf: Wf, text: str) -> str:
        return f"{name} {text}"

    return app


async def test_a_process_deletes_and_steals_nothing_that_it_does_not_know(
    start: Start, outside: asyncpg.Connection
) -> None:
    left, right = app_of("left"), app_of("right")
    async with start(left):
        pass
    async with start(right):
        declared = await the_value(outside, DECLARED)
        assert len(declared) == 14
        await outside.execute("select chimpbase.enqueue('left.queue', '\"job\"')")
        await outside.execute("select chimpbase.publish('happened', '\"event\"')")
        await outside.execute("select chimpbase.start_workflow('left.workflow', '\"run\"', '{\"id\": \"a\"}')")
        await outside.execute(
            "update chimpbase.schedule set next_at = date_trunc('year', now()) where name = 'left.cron'"
        )
        await until(lambda: left_only(outside))
        # nobody here can run its cron: it stays due, and its instants do not pile up as jobs
        assert await outside.fetchval("select count(*) from chimpbase.occurrence") == 0
        assert await notes(outside) == ["right event"]
        assert await outside.fetchval(DECLARED) == declared
    async with start(left):
        await until(lambda: outside.fetchval("select count(*) = 1 from chimpbase.occurrence"))
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == ["left event", "left happy new year", "left job", "right event"]
        assert await outside.fetchval("select output from chimpbase.run") == '"left run"'
        assert await outside.fetchval(DECLARED) == declared


async def test_two_apps_run_in_one_process(start: Start, outside: asyncpg.Connection) -> None:
    left, right = app_of("left"), app_of("right")
    async with start(left), start(right):
        async with left.transaction() as ctx:
            await ctx.pubsub.publish(happened, "event")
            await ctx.queue.enqueue(Queue("right.queue", str), "from the left")
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == ["left event", "right event", "right from the left"]


async def test_a_queue_that_nobody_works_holds_its_jobs_visibly(start: Start, outside: asyncpg.Connection) -> None:
    producer = App("producer")
    unknown: Queue[str] = Queue("left.queue", str)
    async with start(producer), producer.transaction() as ctx:
        await ctx.queue.enqueue(unknown, "early")
    assert await outside.fetchval("select count(*) from chimpbase.job where process is null") == 1
    async with start(app_of("left")):
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["left early"]


async def test_a_schedule_that_cannot_be_read_here_disturbs_no_other(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version may write expressions, and a host may know time zones, that this one does not."""
    async with start(app_of("left")):
        await outside.execute("""
            update chimpbase.schedule set next_at = date_trunc('year', now());
            insert into chimpbase.schedule (name, expression, tz, queue, next_at)
            select x.name, x.expression, x.tz, queue.id, now() - interval '1 h' from chimpbase.queue,
              (values ('odd', '0 9 L-3 * *?', 'UTC'), ('far', '* * * * *', 'Mars/Olympus_Mons'))
                as x (name, expression, tz)
            where queue.name = 'cron:left.cron'
        """)
        await until(lambda: is_noted(outside, "left happy new year"))
        await until(lambda: "'odd'" in caplog.text and "'far'" in caplog.text)


async def test_twenty_processes_start_at_once_on_an_empty_database(
    dsn: str, tmp_path: Path, outside: asyncpg.Connection
) -> None:
    async with fleet_of("tests.stories.apps.points", dsn, tmp_path) as fleet:
        members = [await fleet.launch(poll=1) for _ in range(20)]
        for member in members:
            await member.ready(within_s=50)
        assert await outside.fetchval("select count(*) from chimpbase.process where dead_at is null") == 20
        assert await outside.fetchval("select count(*) from chimpbase.migration") == len(
            await outside.fetch("select distinct number from chimpbase.migration")
        )
        await outside.execute("select chimpbase.enqueue('first', '\"x\"')")
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == ["first", "follow", "one", "two"]
        assert not [member.log.read_text() for member in members if "Traceback" in member.log.read_text()]


async def left_only(outside: asyncpg.Connection) -> bool:
    """Whether all that the other app could do is done."""
    names = await outside.fetch(
        "select queue.name from chimpbase.job join chimpbase.queue on queue.id = job.queue order by 1"
    )
    waiting = ["left.queue", "subscription:left.subscription", "workflow:left.workflow@1"]
    return [row[0] for row in names] == waiting


async def is_noted(outside: asyncpg.Connection, note: str) -> bool:
    return note in await notes(outside)


async def test_a_job_with_few_attempts_is_not_buried_for_the_crashes_of_its_neighbour(
    dsn: str, tmp_path: Path, outside: asyncpg.Connection
) -> None:
    async with fleet_of("tests.stories.apps.jobs", dsn, tmp_path) as fleet:
        member = await fleet.start()
        await outside.execute("select chimpbase.enqueue('poison', '\"poison\"')")
        await outside.execute("""
            select chimpbase.enqueue('poison', to_jsonb('fine ' || n), '{"max_attempts": 2}')
            from generate_series(1, 6) n
        """)

        async def done() -> bool:
            nonlocal member
            if not member.alive:
                member = await fleet.start()
            return len(await notes(outside)) == 6 and await is_idle(outside)

        await until(done, deadline_s=40)
        dead = await outside.fetch("select payload, reason from chimpbase.job_dead")
        assert [tuple(row) for row in dead] == [('"poison"', "crashed")]
