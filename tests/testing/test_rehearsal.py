"""An app rehearsed: nothing runs by itself, jobs run in one order, and what a test asks is answered from the tables."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from chimpbase import App, Cancel, Ctx, DeadLetter, Event, Queue, Retry, Snooze, SyncCtx, errors
from chimpbase.testing import rehearse

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Mail:
    to: str


joined = Event("member.joined", Mail)
mails = Queue("mail.send", Mail)


def club() -> tuple[App, list[str]]:
    app, said = App("club", [mails, joined]), list[str]()

    @app.action
    async def join(ctx: Ctx, who: str) -> str:
        await ctx.pubsub.publish(joined, Mail(who))
        return f"welcome {who}"

    @app.subscribe(joined)
    async def greet(ctx: Ctx, event: Mail) -> None:
        said.append(f"greet {event.to}")
        await ctx.queue.enqueue(mails, event)

    @app.worker(mails)
    async def send(ctx: Ctx, mail: Mail) -> None:
        said.append(f"send {mail.to}")

    return app, said


async def test_nothing_runs_before_it_is_drained() -> None:
    app, said = club()
    async with rehearse(app) as t:
        assert await t.call("join", "ada") == "welcome ada"
        assert await t.published(joined) == [Mail("ada")]
        await asyncio.sleep(0)
        assert said == []
        drained = await t.drain()
        assert said == ["greet ada", "send ada"]
        assert (drained.completed, drained.attempts, drained.failures) == (2, 2, ())
        assert (await t.drain()).attempts == 0


async def test_what_waits_in_a_queue_is_seen_typed_and_in_order() -> None:
    app, _ = club()
    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(mails, Mail("late"), delay=timedelta(hours=2))
            await ctx.queue.enqueue(mails, Mail("soon"), delay=timedelta(hours=1))
            await ctx.queue.enqueue(mails, Mail("now"))
            await ctx.queue.enqueue(mails, Mail("first"), priority=-1)
        expected = [Mail("first"), Mail("now"), Mail("soon"), Mail("late")]
        assert await t.enqueued(mails) == await t.enqueued("mail.send") == expected
        await t.drain()
        assert await t.enqueued(mails) == [Mail("soon"), Mail("late")]
        with pytest.raises(errors.NotRegistered):
            await t.enqueued("mail.sned")


async def test_jobs_of_all_queues_run_by_priority_and_then_as_they_became_ready() -> None:
    app, ran = App("order"), list[str]()
    one, two = Queue("one", str), Queue("two", str)

    @app.worker(one)
    async def first(ctx: Ctx, name: str) -> None:
        ran.append(name)

    @app.worker(two)
    async def second(ctx: Ctx, name: str) -> None:
        ran.append(name)

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            for queue, name, priority in ((one, "a", 0), (two, "b", 0), (two, "c", 0), (one, "d", 0), (two, "e", -5)):
                await ctx.queue.enqueue(queue, name, priority=priority)
        await t.drain()
    assert ran == ["e", "a", "b", "c", "d"]


async def test_every_way_to_end_is_counted() -> None:
    app, todo = App("ends"), Queue("todo", str)

    @app.worker(todo, retry=Retry(max_attempts=2, first=timedelta(minutes=1)))
    async def do(ctx: Ctx, what: str) -> Snooze | Cancel | DeadLetter | None:
        match what:
            case "fail":
                raise ConnectionError("no line")
            case "snooze":
                return Snooze(timedelta(hours=1))
            case "cancel":
                return Cancel("never mind")
            case "bury":
                return DeadLetter("rotten")
            case _:
                return None

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            for what in ("work", "fail", "snooze", "cancel", "bury"):
                await ctx.queue.enqueue(todo, what)
        drained = await t.drain()
        counts = (drained.completed, drained.retried, drained.snoozed, drained.cancelled, drained.dead)
        assert counts == (1, 1, 1, 1, 1)
        [failure] = drained.failures
        assert (failure.queue, failure.attempt, str(failure.error), failure.dead) == ("todo", 1, "no line", False)
        later = await t.advance(timedelta(minutes=10))
        assert [(one.attempt, one.dead) for one in later.failures] == [(2, True)]
        assert (later.retried, later.dead) == (0, 1)


async def test_an_error_is_raised_when_that_is_asked_for() -> None:
    app, todo = App("raising"), Queue("todo", str)

    @app.worker(todo)
    async def do(ctx: Ctx, what: str) -> None:
        raise ConnectionError(what)

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "no line")
        with pytest.raises(ConnectionError, match="no line"):
            await t.drain(raising=True)
        assert await t.enqueued(todo) == ["no line"]  # and it is tried again, as always
        with pytest.raises(ConnectionError):
            await t.advance(timedelta(minutes=1), raising=True)


async def test_an_attempt_that_takes_too_long_fails() -> None:
    app, todo = App("slow"), Queue("todo", str)

    @app.worker(todo, timeout=timedelta(milliseconds=20))
    async def do(ctx: Ctx, what: str) -> None:
        await asyncio.Event().wait()

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "wait")
        [failure] = (await t.drain()).failures
        assert isinstance(failure.error, errors.AttemptTimeout)


async def test_jobs_that_make_each_other_for_ever_are_stopped() -> None:
    app, todo = App("endless"), Queue("todo", int)

    @app.worker(todo)
    async def do(ctx: Ctx, number: int) -> None:
        await ctx.queue.enqueue(todo, number + 1)

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, 0)
        with pytest.raises(errors.UsageError, match="5 jobs have run and more are due"):
            await t.drain(most=5)
        assert await t.enqueued(todo) == [5]


async def test_a_plain_function_runs_in_its_thread() -> None:
    app, todo = App("plain"), Queue("todo", str)

    @app.worker(todo)
    def do(ctx: SyncCtx, key: str) -> None:
        ctx.kv.set(key, "done")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "it")
        assert (await t.drain()).completed == 1
        async with t.transaction() as ctx:
            assert await ctx.kv.get("it") == "done"


async def test_a_handler_cannot_drain() -> None:
    app, todo = App("nested"), Queue("todo", str)

    @app.worker(todo)
    async def do(ctx: Ctx, what: str) -> None:
        await t.drain()

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "it")
        [failure] = (await t.drain()).failures
        assert isinstance(failure.error, errors.UsageError)
        assert "cannot drain" in str(failure.error)


async def test_each_rehearsal_has_a_database_of_its_own_with_the_projects_migrations(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create_members.sql").write_text("create table member (name text primary key);\n")
    for _ in range(2):
        async with rehearse(App("members"), project=tmp_path) as t, t.transaction() as ctx:
            await ctx.db.execute("insert into member values ('ada')")
            assert await ctx.db.fetch_value("select count(*) from member") == 1


async def test_a_given_database_is_used_and_stays(dsn: str) -> None:
    app, _ = club()
    async with rehearse(app, database_url=dsn) as t:
        assert t.database_url == dsn
        await t.call("join", "ada")
    async with rehearse(app, database_url=dsn) as t:
        assert await t.published(joined) == [Mail("ada")]
        assert (await t.drain()).completed == 2


async def test_the_app_itself_runs_meanwhile_and_not_afterwards() -> None:
    app, _ = club()
    async with rehearse(app) as t:
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(mails, Mail("ada"))
        assert await t.enqueued(mails) == [Mail("ada")]
        with pytest.raises(errors.UsageError, match="running already"):
            async with rehearse(app):
                pass
    with pytest.raises(errors.NotStarted):
        await app.call("join", "bob")


async def test_inline_a_call_returns_when_all_it_caused_has_happened() -> None:
    app, said = club()
    async with rehearse(app, inline=True) as t:
        await t.call("join", "ada")
        assert said == ["greet ada", "send ada"]
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(mails, Mail("bob"))
            assert said[2:] == []
        assert said[2:] == ["send bob"]
        await app.call("join", "eve")
        assert said[3:] == ["greet eve", "send eve"]


async def test_inline_the_first_error_of_a_handler_is_raised_and_what_is_not_due_waits() -> None:
    app = App("inline")

    @app.worker(mails, retry=Retry(max_attempts=2))
    async def send(ctx: Ctx, mail: Mail) -> None:
        raise LookupError(mail.to)

    async with rehearse(app, inline=True) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(mails, Mail("later"), delay=60)
        with pytest.raises(LookupError, match="now"):
            async with t.transaction() as ctx:
                await ctx.queue.enqueue(mails, Mail("now"))
        assert await t.enqueued(mails) == [Mail("now"), Mail("later")]


async def test_inline_an_action_called_by_a_job_does_not_drain() -> None:
    app, said = App("inline"), list[str]()

    @app.action
    async def note(ctx: Ctx, what: str) -> None:
        said.append(what)

    @app.worker(mails)
    async def send(ctx: Ctx, mail: Mail) -> None:
        await app.call(note, f"for {mail.to}")

    async with rehearse(app, inline=True) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(mails, Mail("ada"))
        assert said == ["for ada"]
