"""Handlers in child processes: the same ctx, the same transaction, and an end that a thread cannot be given."""

from __future__ import annotations

import logging
import os
import pickle
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from chimpbase import App, Ctx, SyncCtx, worker
from chimpbase.errors import NotFound, NotRegistered, PayloadError, UsageError
from tests.app.laborers import (
    Labour,
    follow,
    hasty,
    hurry,
    labour,
    labours,
    note_done,
    noted,
    read_back,
    reports,
    scores,
    tidy,
)
from tests.app.slow_laborers import labour_slowly, slow
from tests.running import Start, errors_of, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def _run(start: Start, outside: asyncpg.Connection, *work: Labour, **overrides: object) -> None:
    app = App("crew", register=[labour, follow, note_done, tidy, reports, scores, noted, read_back])
    async with start(app, **overrides):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue_many(labours, work)
        await until(lambda: is_idle(outside))


async def _dead(outside: asyncpg.Connection) -> str:
    (row,) = await history(outside, "job_dead")
    return str(row["errors"])


async def test_what_a_child_writes_commits_with_its_job(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await _run(start, outside, *(Labour("write", n) for n in range(6)))
    me = os.getpid()
    assert sorted(await notes(outside)) == sorted([f"{n} {me}" for n in range(6)] * 2)
    assert [
        await outside.fetchval("select value from chimpbase.kv where key = $1", f"attempt {n}") for n in (0, 5)
    ] == [
        "1",
        "1",
    ]
    assert {"wrote 0", "wrote 5"} <= {record.getMessage() for record in caplog.records}


async def test_what_a_child_raises_takes_back_what_it_wrote(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("fail", 7))
    assert await notes(outside) == []
    assert "no number with id 7" in (await _dead(outside)).lower()


async def test_collections_and_namespaces_are_typed_in_a_child(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("typed", 4))
    assert await history(outside, "job_dead") == []
    assert await outside.fetchval("select body ->> 'n' from chimpbase.document") == "5"
    assert await outside.fetchval("select value::jsonb ->> 'n' from chimpbase.kv where namespace = 'scores'") == "4"


async def test_definitions_are_known_in_a_child_by_what_a_verb_takes(start: Start, outside: asyncpg.Connection) -> None:
    app = App("crew", register=[labour, follow, note_done, tidy])
    async with start(app):
        job = await app.ctx.queue.enqueue(labours, Labour("definitions", 3))
        await until(lambda: outside.fetchval("select count(*) = 0 from chimpbase.job where id = $1", int(job)))
        assert await history(outside, "job_dead") == []
        paused = await outside.fetch("select name from chimpbase.queue where paused_at is not null order by name")
    assert [row[0] for row in paused] == ["cron:tidy", "followed", "subscription:note-done"]
    assert await outside.fetchval("select count(*) from chimpbase.job") == 2  # the delivery, and it replayed


async def test_steps_and_streams_are_known_in_a_child_when_they_are_registered(
    start: Start, outside: asyncpg.Connection
) -> None:
    await _run(start, outside, Labour("append", 7))
    work = [Labour(kind, 7) for kind in ("step", "read", "unregistered step", "unregistered stream")]
    await _run(start, outside, *work)
    assert await notes(outside) == ["7"]
    said = [errors_of(row)[0][1:] for row in await history(outside, "job_dead")]
    assert [kind for kind, _ in said] == ["NotRegistered"] * 2
    assert "No step named 'unregistered' is registered" in said[0][1]
    assert "No stream named 'unread' is registered; did you mean 'read-back'?" in said[1][1]


async def test_what_cannot_cross_to_a_child_or_back_is_refused(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("function"), Labour("lock"), Labour("strange"))
    said = "".join(row["errors"] for row in await history(outside, "job_dead"))
    assert "ctx.kv.set was given what cannot leave its process" in said
    assert "a SyncLockBlock cannot leave its process" in said
    assert "No namespace named 'strange' is registered" in said


async def test_an_error_of_a_verb_is_raised_in_the_child(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("missing"))
    assert "no such queue" in await _dead(outside)


async def test_a_child_that_dies_fails_its_attempt_and_nothing_else(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("die"), Labour("write", 1), Labour("write", 2))
    assert len(await notes(outside)) == 4
    assert "SIGKILL" in await _dead(outside)


async def test_a_child_that_exits_fails_its_attempt(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("exit"), Labour("write", 1))
    assert "SystemExit" in await _dead(outside)
    assert len(await notes(outside)) == 2


async def test_an_outcome_comes_back_from_a_child(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("cancel"))
    assert [row["outcome"] for row in await history(outside, "job_done")] == ["cancelled"]


async def test_on_commit_is_refused_in_a_child(start: Start, outside: asyncpg.Connection) -> None:
    await _run(start, outside, Labour("on_commit"))
    assert "child process" in await _dead(outside)


async def test_a_child_that_takes_too_long_is_ended(start: Start, outside: asyncpg.Connection, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    app = App("crew", register=[labour, follow, hurry])
    async with start(app):
        # the child that did this is there for the next job, so that the time is not spent on starting one
        await app.ctx.queue.enqueue(labours, Labour("write", 1))
        await until(lambda: is_idle(outside))
        await app.ctx.queue.enqueue(hasty, Labour("hang", path=str(pid)))
        await until(lambda: is_idle(outside))
        assert "took longer than 1 s" in await _dead(outside)
        await until(lambda: _gone(int(pid.read_text())))


async def test_the_start_of_a_child_is_not_in_the_timeout_of_its_first_attempt(
    start: Start, outside: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_FOR", str(os.getpid()))
    async with start(App("crew", register=[labour_slowly])) as runtime:
        await runtime.ctx.queue.enqueue(slow, 1)
        await until(lambda: is_idle(outside))
    assert await history(outside, "job_dead") == []
    assert await notes(outside) == ["1"]


async def test_a_stop_ends_the_children(start: Start, outside: asyncpg.Connection, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    app = App("crew", register=[labour])
    async with start(app, grace=timedelta(seconds=0.1)):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(labours, Labour("hang", path=str(pid)))
        await until(lambda: _exists(pid))
    await until(lambda: _gone(int(pid.read_text())))
    assert await outside.fetchval("select count(*) from chimpbase.job where process is null") == 1


def test_only_plain_functions_of_a_module_run_in_children() -> None:
    with pytest.raises(UsageError, match="plain `def` at the top of a module"):

        @worker(labours, executor="process")
        async def coroutine(ctx: Ctx, work: Labour) -> None: ...

    with pytest.raises(UsageError, match="plain `def` at the top of a module"):

        @worker(labours, executor="process")
        def local(ctx: SyncCtx, work: Labour) -> None: ...

    with pytest.raises(UsageError, match="'thread' or 'process'"):
        worker(labours, executor="fiber")(labour.function)  # type: ignore[arg-type]


def _exists(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_every_error_of_this_package_can_leave_its_process() -> None:
    for error in (NotFound("number", 7), NotRegistered("queue", "quee", ["queue"]), PayloadError("bad", path="$.a")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)
