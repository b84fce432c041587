"""Bad input: whatever is put into whatever argument of whatever verb, the answer is an error of ours, and nothing else.

The verbs are found, not listed: one that is added tomorrow is tried tomorrow.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Signal, Wf
from chimpbase._core.errors import ChimpbaseError, QueryError
from tests.faults.bad_values import OTHERS, STRINGS, fitting, verbs
from tests.running import Start, is_idle, the_value
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

#: What carries verbs, and how a ctx comes to it.
CLIENTS: dict[str, Callable[[Ctx], Any]] = {
    "db": lambda ctx: ctx.db,
    "queue": lambda ctx: ctx.queue,
    "job handle": lambda ctx: ctx.queue.handle(1),
    "pubsub": lambda ctx: ctx.pubsub,
    "workflow": lambda ctx: ctx.workflow,
    "run handle": lambda ctx: ctx.workflow.handle("run"),
    "kv": lambda ctx: ctx.kv,
    "cron": lambda ctx: ctx.cron,
    "stream": lambda ctx: ctx.stream,
    "collection": lambda ctx: ctx.collection,
    "documents": lambda ctx: ctx.collection("papers"),
}
#: What of a ctx is a value, not a client.
VALUES = {"idempotency_key", "job", "jobs", "log", "trace_id"}
SECRET = "canary-7b1c-secret"
_LIMIT_S = 10


def build() -> App:
    app = App("bad-input")

    @app.worker("note")
    async def note(ctx: Ctx, text: str) -> None: ...

    @app.subscribe(Event("happened", str))
    async def heard(ctx: Ctx, text: str) -> None: ...

    @app.workflow("journey")
    async def journey(wf: Wf, text: str) -> str | None:
        return await wf.wait(Signal("go", str), timeout=0.01)

    return app


@pytest.fixture
async def app(start: Start, outside: asyncpg.Connection) -> AsyncIterator[App]:
    await outside.execute("create table canary (sings boolean)")
    await outside.execute("insert into canary values (true)")
    app = build()
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            await ctx.workflow.start("journey", "x", id="run")
        yield app
    assert await the_value(outside, "select sings from canary")


async def _call(app: App, client: str, verb: str, arguments: dict[str, Any]) -> BaseException | None:
    """What came out of the verb, if anything."""
    try:
        async with asyncio.timeout(_LIMIT_S), app.transaction() as ctx:
            await _finished(getattr(CLIENTS[client](ctx), verb)(**arguments))
    except Exception as error:
        return error
    return None


async def _finished(answer: Any) -> None:
    """Wait for what a verb gave: a coroutine, a block, or entries without an end, of which the first is enough."""
    if hasattr(answer, "__aenter__"):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(answer)
    elif inspect.isasyncgen(answer):
        try:
            await asyncio.wait_for(anext(answer), 0.05)
        except (TimeoutError, StopAsyncIteration):
            await answer.aclose()
    elif inspect.isawaitable(answer):
        await answer


def _is_ours(error: BaseException | None, *, own_sql: bool = False) -> bool:
    # a QueryError is the server's refusal of a statement that should not have been sent, unless it was the caller's own
    return error is None or (isinstance(error, ChimpbaseError) and (own_sql or not isinstance(error, QueryError)))


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_bad_value_is_refused_by_us_and_not_by_the_server_or_python(app: App, client: str) -> None:
    wrong: list[str] = []
    async with app.transaction() as ctx:
        found = list(verbs(type(CLIENTS[client](ctx))))
    for verb, _, parameters in found:
        base = fitting(parameters)
        for name in parameters:
            if name == "timeout":
                continue  # None of them: a wait for ever is what was asked for
            for value in (*STRINGS, *OTHERS):
                error = await _call(app, client, verb, {**base, name: value})
                if not _is_ours(error, own_sql=client == "db"):
                    wrong.append(f"{client}.{verb}({name}={value!r:.40}): {type(error).__name__}: {error!s:.120}")
    assert "\n".join(wrong) == ""


async def test_no_client_of_a_ctx_is_left_out(app: App) -> None:
    found = {name for name, _ in inspect.getmembers(Ctx, lambda member: isinstance(member, property))}
    assert found <= CLIENTS.keys() | VALUES


async def test_what_does_not_fit_a_place_in_the_callers_own_sql_is_refused_by_us(app: App) -> None:
    wrong: list[str] = []
    for sql in (
        "select $1::text",
        "select $1::bigint",
        "select $1::jsonb",
        "select $1::timestamptz",
        "select $1::text[]",
    ):
        for value in (*STRINGS, *OTHERS):
            try:
                async with app.transaction() as ctx:
                    await ctx.db.fetch_value(sql, value)
            except Exception as error:
                if not isinstance(error, ChimpbaseError):
                    wrong.append(f"{sql} {value!r:.40}: {type(error).__name__}: {error!s:.120}")
    assert "\n".join(wrong) == ""


async def test_a_secret_appears_in_no_table_log_or_error(
    start: Start, outside: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("api", SECRET)
    app = App("secret")

    @app.worker("leak")
    async def leak(ctx: Ctx, how: str) -> None:
        secret = ctx.secret("api")
        if how == "query":
            await ctx.db.execute("select 1 / 0 where $1 <> ''", secret)
        assert secret == SECRET
        raise ValueError(how)

    caplog.set_level(0)
    async with start(app) as runtime:
        assert SECRET not in repr(runtime.settings)
        assert SECRET not in str(vars(runtime))
        async with app.transaction() as ctx:
            for how in ("query", "error"):
                await ctx.queue.enqueue("leak", how, max_attempts=1)
        await until(lambda: is_idle(outside))
    assert await _tables_with(outside, SECRET) == []
    assert SECRET not in caplog.text


async def test_the_databases_password_appears_in_no_table_log_or_error(
    dsn: str, outside: asyncpg.Connection, caplog: Any, tmp_path: Path
) -> None:
    app, tries = App("password"), list[str]()

    @app.worker("leak")
    async def leak(ctx: Ctx, how: str) -> None:
        if how == "query":
            await ctx.db.execute("select 1 / 0")
        tries.append(how)
        if len(tries) == 1:
            await ctx.db.execute("select pg_terminate_backend(pg_backend_pid())")

    caplog.set_level(0)
    async with app.running(database_url=_with_password(dsn), project=tmp_path) as runtime:
        assert SECRET not in repr(runtime.settings)
        assert SECRET not in str(vars(runtime))
        async with app.transaction() as ctx:
            for how in ("query", "connection"):
                await ctx.queue.enqueue("leak", how, max_attempts=1)
        await outside.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await until(lambda: is_idle(outside))
    for wrong in ("postgresql://somebody:{}@127.0.0.1:1/none", "postgresql://somebody:{}@[::1/none", "nonsense:{}@x"):
        with pytest.raises(ChimpbaseError) as told:
            async with App("nowhere").running(database_url=wrong.format(SECRET), project=tmp_path):
                pass
        assert SECRET not in "".join(traceback.format_exception(told.value))
    assert await _tables_with(outside, SECRET) == []
    assert SECRET not in caplog.text


def _with_password(dsn: str) -> str:
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{SECRET}@{place}"))


async def _tables_with(outside: asyncpg.Connection, text: str) -> list[str]:
    tables = await outside.fetch("""
        select oid::regclass::text as name from pg_class
        where relkind = 'r' and relnamespace = 'chimpbase'::regnamespace
    """)
    found = [table["name"] for table in tables]
    sql = "select exists (select from {} t where t::text like '%' || $1 || '%')"
    return [name for name in found if await the_value(outside, sql.format(name), text)]
