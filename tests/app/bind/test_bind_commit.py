"""Bind: what follows a commit, where the library tells of it, and where it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from chimpbase import App, Ctx
from chimpbase._core.errors import UsageError
from tests.app.bind.callers import CALLERS, Caller, calling, sqlalchemy_url
from tests.app.bind.shop import Ship, ships
from tests.running import left_over
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[kind for kind in CALLERS if kind.tells], ids=lambda kind: kind.__name__)
async def teller(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Caller]:
    """A caller whose library tells of its commits."""
    async with calling(request.param, dsn) as caller:
        yield caller


async def test_what_should_follow_a_commit_follows_it_and_nothing_else(app: App, teller: Caller) -> None:
    called: list[str] = []
    ctx: Any = await teller.do(app.bind, teller.bindable)
    await teller.begin()
    await teller.do(ctx.kv.set, "a", 1)
    await teller.do(ctx.on_commit, lambda: called.append("rolled back"))
    await teller.rollback()
    await teller.begin()
    await teller.do(ctx.kv.set, "a", 2)
    await teller.do(ctx.on_commit, lambda: called.append("committed"))
    assert called == []
    await teller.commit()
    assert called == ["committed"]
    await teller.begin()
    await teller.do(ctx.kv.set, "a", 3)
    await teller.commit()
    assert called == ["committed"]


async def test_what_was_asked_for_in_a_savepoint_shares_its_fate(app: App, teller: Caller) -> None:
    called: list[str] = []

    def soon(word: str) -> Any:
        return teller.do(ctx.on_commit, lambda: called.append(word))

    ctx: Any = await teller.do(app.bind, teller.bindable)
    await teller.begin()
    await soon("before")
    end_kept = await teller.savepoint()
    await soon("kept")
    end_lost = await teller.savepoint()
    await soon("lost")
    end_lost_too = await teller.savepoint()
    await soon("lost with the one around it")
    await end_lost_too(True)
    await end_lost(False)
    await soon("kept too")
    await end_kept(True)
    await soon("after")
    assert called == []
    await teller.commit()
    assert called == ["before", "kept", "kept too", "after"]


async def test_what_an_action_asks_for_is_dropped_with_its_failure(app: App, teller: Caller) -> None:
    called: list[bool] = []

    @app.action
    async def ask(ctx: Ctx, fail: bool) -> None:
        await ctx.kv.set("a", fail)
        ctx.on_commit(lambda: called.append(fail))
        if fail:
            raise ZeroDivisionError

    ctx: Any = await teller.do(app.bind, teller.bindable)
    await teller.begin()
    with pytest.raises(ZeroDivisionError):
        await teller.do(ctx.call, ask, True)
    await teller.do(ctx.call, ask, False)
    assert called == []
    await teller.commit()
    assert called == [False]


async def test_async_callbacks_run_and_errors_harm_nobody(
    app: App, teller: Caller, caplog: pytest.LogCaptureFixture, outside: asyncpg.Connection
) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("async")

    async def fail_later() -> None:
        raise ZeroDivisionError

    def fail() -> None:
        raise ZeroDivisionError

    ctx: Any = await teller.do(app.bind, teller.bindable)
    await teller.begin()
    for callback in (fail, fail_later, note):
        await teller.do(ctx.on_commit, callback)
    await teller.do(ctx.queue.enqueue, ships, Ship("a"))
    await teller.commit()
    assert await left_over(outside) == {"job": 1}
    await until(lambda: called == ["async"] and caplog.text.count("on_commit of transaction bound to shop failed") == 2)


@pytest.mark.parametrize("kind", [kind for kind in CALLERS if not kind.tells], ids=lambda kind: kind.__name__)
async def test_where_nobody_tells_of_the_commit_on_commit_is_refused(app: App, dsn: str, kind: type[Caller]) -> None:
    @app.action
    async def ask(ctx: Ctx) -> None:
        ctx.on_commit(lambda: None)

    async with calling(kind, dsn) as caller:
        ctx: Any = await caller.do(app.bind, caller.bindable)
        await caller.begin()
        with pytest.raises(UsageError, match="cannot tell when its transaction has committed"):
            await caller.do(ctx.on_commit, lambda: None)
        with pytest.raises(UsageError, match="cannot tell when its transaction has committed"):
            await caller.do(ctx.call, ask)
        ctx.wake()
        await caller.do(ctx.kv.set, "a", 1)
        ctx.wake()
        await caller.rollback()


async def test_a_session_closed_without_a_commit_leaves_nothing_for_its_next_transaction(app: App, dsn: str) -> None:
    called: list[str] = []
    engine = create_engine(sqlalchemy_url(dsn, "psycopg"))
    session = Session(engine)
    app.bind(session).on_commit(lambda: called.append("closed"))
    app.bind(session).kv.set("a", 1)
    session.close()
    app.bind(session).on_commit(lambda: called.append("first"))
    app.bind(session).on_commit(lambda: called.append("second"))
    assert app.bind(session).kv.get("a") is None
    session.commit()
    session.close()
    engine.dispose()
    assert called == ["first", "second"]
