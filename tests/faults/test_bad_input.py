"""Bad input: whatever is put into whatever argument of whatever verb, the answer is an error of ours, and nothing else.

The verbs are found, not listed: one that is added tomorrow is tried tomorrow.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Signal, Wf
from chimpbase._app.ctx import Ctx as CtxType
from chimpbase._core.errors import ChimpbaseError, QueryError
from tests.faults.bad_values import OTHERS, STRINGS, fitting, verbs
from tests.running import Start, is_idle, the_value
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

CLIENTS = ("queue", "pubsub", "workflow", "kv", "cron", "stream")
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


def client_type(name: str) -> type[Any]:
    found = inspect.getattr_static(CtxType, name)
    assert isinstance(found, property)
    assert found.fget is not None
    return type(found.fget(_blank()))


def _blank() -> CtxType:
    """A ctx of which only the clients' types are asked."""
    from chimpbase._app.origin import Origin
    from chimpbase._app.unit import Unit

    origin = Origin(title="t", name="n", cause="c", new_trace=lambda: "0" * 32)
    nothing: Any = None
    return CtxType(nothing, Unit(nothing, title="t").root, origin)


async def _call(app: App, client: str, verb: str, arguments: dict[str, Any]) -> BaseException | None:
    """What came out of the verb, if anything."""
    try:
        async with asyncio.timeout(_LIMIT_S), app.transaction() as ctx:
            answer = getattr(getattr(ctx, client), verb)(**arguments)
            if hasattr(answer, "__aenter__"):
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(answer)
            elif inspect.isawaitable(answer):
                await answer
    except Exception as error:
        return error
    return None


def _is_ours(error: BaseException | None) -> bool:
    # a QueryError is the server's refusal of a statement that should not have been sent
    return error is None or (isinstance(error, ChimpbaseError) and not isinstance(error, QueryError))


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_bad_value_is_refused_by_us_and_not_by_the_server_or_python(app: App, client: str) -> None:
    wrong: list[str] = []
    for verb, _, found in verbs(client_type(client)):
        base = fitting(found)
        for name in found:
            if name == "timeout":
                continue  # None of them: a wait for ever is what was asked for
            for value in (*STRINGS, *OTHERS):
                error = await _call(app, client, verb, {**base, name: value})
                if not _is_ours(error):
                    wrong.append(f"{client}.{verb}({name}={value!r:.40}): {type(error).__name__}: {error!s:.120}")
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("client", CLIENTS)
def test_every_verb_has_fitting_arguments_to_start_from(client: str) -> None:
    for verb, _, found in verbs(client_type(client)):
        assert set(fitting(found)) <= set(found), verb


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
    tables = await outside.fetch("""
        select oid::regclass::text as name from pg_class
        where relkind = 'r' and relnamespace = 'chimpbase'::regnamespace
    """)
    for table in tables:
        sql = f"select exists (select from {table['name']} t where t::text like '%{SECRET}%')"
        assert not await the_value(outside, sql), table["name"]
    assert SECRET not in caplog.text
