"""Secrets: what is given as a value appears in no log, traceback, history of errors or answer, whatever fails.

A failure that repeats a value is the rule in databases and their drivers, not the exception: each way is one row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pydantic
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from chimpbase import App, Ctx, Stream, Wf, action
from chimpbase.cli.logs import JsonLines, TextLines
from chimpbase.cli.paint import Paint as InColour
from chimpbase.cli.program import run
from chimpbase.cli.tracebacks import trimmed, whole
from chimpbase.errors import DatabaseError
from chimpbase.http import route
from tests.http.serving import Serve, request, serve
from tests.running import Start, errors_of, history, is_idle, outside, start
from tests.waiting import until

__all__ = ["outside", "serve", "start"]

pytestmark = pytest.mark.anyio

SECRET = "canary-3c9d-secret"
#: In the text of an error of the application's own, which is for its log and its history of errors alone.
OWN = "canary-8e1f-own"

TABLES = """
    create type mood as enum ('calm');
    create table vault (
      token text primary key, size int check (size < 10), note text not null default '', parent text references vault,
      during int4range, exclude using gist (during with &&)
    );
    create table shelf (token text) partition by list (token);
    create domain short as text check (length(value) < 5);
"""
#: Statements that fail with a value in hand, and the value.
STATEMENTS: list[tuple[str, Any]] = [
    ("insert into vault (token) values ($1), ($1)", SECRET),
    ("insert into vault (token, size) values ($1, 20)", SECRET),
    ("insert into vault (token, note) values ($1, null)", SECRET),
    ("insert into vault (token, parent) values ('a', $1)", SECRET),
    ("insert into shelf values ($1)", SECRET),
    ("select $1::text::int", SECRET),
    ("select $1::text::timestamptz", SECRET),
    ("select $1::text::interval", SECRET),
    ("select $1::text::mood", SECRET),
    ("select $1::text::uuid", SECRET),
    ("select $1::text::jsonb", SECRET),
    ("select $1::text::short", SECRET),
    ("select $1::text::inet", SECRET),
    ("select $1::text::boolean", SECRET),
    ("select $1::text::int4range", SECRET),
    ("select $1::text::int[]", SECRET),
    ("select $1::text::regclass", SECRET),
    ("select $1::text::xid8", SECRET),
    ("select $1::text::date", "2026-99-99 " + SECRET),
    ("select $1::text::tsquery", SECRET + " ' &"),
    ("select $1::text::jsonpath", SECRET + " ?"),
    ("select '' ~ $1::text", SECRET + "("),
    ("select to_timestamp($1::text, 'YYYY')", SECRET),
    ("select encode(decode($1::text, 'hex'), 'hex')", SECRET),
    ("select set_config('statement_timeout', $1::text, true)", SECRET),
    ("select set_config('datestyle', $1::text, true)", SECRET),
    ("select now() at time zone $1::text", SECRET),
    ("select convert_from('x', $1::text)", SECRET),
    ("select $1::int", SECRET),
    ("select $1::uuid", SECRET),
    ("select $1::timestamptz", SECRET),
    ("select $1::bigint[]", [SECRET]),
    ("select $1::numeric", SECRET),
    ("select $1::inet", SECRET),
    ("select $1::text", SECRET.encode()),
    ("select $1::text", SECRET + "\x00"),
    ("select $1::text", SECRET + "\udc00"),
]


@pytest.fixture
def dsn(dsn: str) -> str:
    """The test's database, by a URL with a password in it; the server asks for none."""
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{SECRET}@{place}"))


async def test_a_statement_that_fails_repeats_no_value_in_any_error_or_log(
    start: Start, outside: asyncpg.Connection, caplog: Any
) -> None:
    await outside.execute(TABLES)
    app, told = App("secrets"), list[str]()

    @app.worker("leak")
    async def leak(ctx: Ctx, number: int) -> None:
        await ctx.db.execute(*STATEMENTS[number])

    async with start(app) as runtime:
        for number, (sql, value) in enumerate(STATEMENTS):
            with pytest.raises(DatabaseError) as failed:
                async with app.transaction() as ctx:
                    await ctx.db.execute(sql, value)
            told += [sql] * (SECRET in whole(failed.value) + trimmed(failed.value))
            await runtime.ctx.queue.enqueue("leak", number, max_attempts=1)
        await until(lambda: is_idle(outside))
    dead = await history(outside, "job_dead")
    told += [str(errors_of(row)) for row in dead if SECRET in str(errors_of(row))]
    assert (told, len(dead)) == ([], len(STATEMENTS))
    assert_silent(caplog)


class Strict(pydantic.BaseModel):
    colour: int


async def test_a_payload_that_cannot_be_read_is_quoted_nowhere(
    start: Start, outside: asyncpg.Connection, caplog: Any
) -> None:
    app = App("unreadable")

    @app.worker("painted")
    async def painted(ctx: Ctx, paint: Paint) -> None: ...

    @app.worker("strict")
    async def strict(ctx: Ctx, strict: Strict) -> None: ...

    @app.workflow("flow")
    async def flow(wf: Wf, paint: Paint) -> None: ...

    async with start(app):
        for queue in ("painted", "strict"):
            await outside.execute("select chimpbase.enqueue($1, jsonb_build_object('colour', $2::text))", queue, SECRET)
        await outside.execute("select chimpbase.start_workflow('flow', jsonb_build_object('colour', $1::text))", SECRET)
        await until(lambda: is_idle(outside))
    dead = await history(outside, "job_dead")
    assert len(dead) == 2
    assert SECRET not in str([errors_of(row) for row in dead])
    assert SECRET not in str(await outside.fetch("select state, error from chimpbase.run"))
    assert_silent(caplog)


class Colour(Enum):
    RED = "red"


@dataclass
class Paint:
    colour: Colour
    kind: Literal["oil", "water"] = "oil"


@action
async def paint(ctx: Ctx, paint: Paint) -> str:
    return "painted"


@action
async def misreport(ctx: Ctx) -> int:
    return ctx.secret("api")  # type: ignore[return-value]


@action
async def query(ctx: Ctx, number: int) -> None:
    await ctx.db.execute(*STATEMENTS[number])


@action
async def tell(ctx: Ctx) -> None:
    raise RuntimeError(OWN)


async def plain(request: Request) -> Response:
    raise KeyError(OWN)


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    raise KeyError(OWN)


async def stream_of_none(request: Request) -> str:
    raise KeyError(OWN)


async def test_no_page_and_no_answer_shows_a_secret(
    serve: Serve, outside: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    await outside.execute(TABLES)
    monkeypatch.setenv("api", SECRET)
    entries = Stream("entries", int)
    app = App(
        "pages",
        register=[
            route.post("/paint", paint),
            route.get("/misreport", misreport),
            route.get("/query/{number}", query),
            route.get("/tell", tell),
            route.plain(Route("/plain", plain)),
            route.mount("/mounted", Starlette(routes=[Route("/inside", plain)])),
            route.websocket("/chat", chat),
            route.stream("/entries", entries),
            route.stream("/none", stream_of_none),
        ],
    )
    pages = ["/health", "/ready", "/docs", "/openapi.json", "/misreport", "/tell", "/plain", "/mounted/inside", "/none"]
    pages += [f"/query/{number}" for number in range(0, len(STATEMENTS), 5)]
    pages += ["/nowhere", "/paint", "/query/x", "/entries?after=x", "/entries?since=x"]
    said: dict[str, str] = {}
    async with serve(app) as served:
        for page in pages:
            answer = await served.client.get(page)
            said[page] = f"{answer.status_code} {answer.headers} {answer.text}"
        for body in ({"colour": SECRET}, {"colour": "red", "kind": SECRET}, {"colour": "red", SECRET: 1}, [SECRET]):
            answer = await served.client.post("/paint", json=body)
            said[f"/paint {body}"] = f"{answer.status_code} {answer.headers} {answer.text}"
        host, port = served.place
        with pytest.raises(ConnectionClosed) as closed:
            async with connect(f"ws://{host}:{port}/chat") as websocket:
                await websocket.recv()
        said["/chat"] = str(closed.value)
        await outside.execute("select chimpbase.append('entries', to_jsonb($1::text))", SECRET)
        _, live = await served.raw(request("GET", "/entries?since=2020-01-01T00:00:00Z"))
        said["/entries"] = live.decode()
    assert [page for page, answer in said.items() if SECRET in answer or OWN in answer] == []
    assert_silent(caplog)


def assert_silent(caplog: Any) -> None:
    formats = JsonLines().format, TextLines(InColour(on=False)).format
    assert [record.getMessage() for record in caplog.records if any(SECRET in form(record) for form in formats)] == []


PROGRAM = """
from chimpbase import App, Ctx

app = App("vault")


@app.action
async def keep(ctx: Ctx, sql: str) -> None:
    await ctx.db.execute(sql, ctx.secret("api"))


@app.worker("keepers")
async def keeper(ctx: Ctx, sql: str) -> None: ...
"""
#: Command lines on a database that is there, and then on ones that are not.
LINES = [
    ["migrate"],
    ["config"],
    ["config", "-o", "json"],
    ["ls"],
    ["call", "keep", "sql=select $1::text::int"],
    ["call", "keep", "sql=insert into vault (token) values ($1), ($1)"],
    ["queue", "ls"],
    ["job", "ls"],
    ["why", "1"],
]
NOWHERE = [
    f"postgresql://somebody:{SECRET}@127.0.0.1:1/none",
    f"postgresql://somebody:{SECRET}@127.0.0.1:1/none?sslpassword={SECRET}&sslmode=wrong",
    f"postgresql://127.0.0.1:1/none?user=somebody&password={SECRET}",
    f"postgresql://somebody:{SECRET}@[::1/none",
    f"postgres:{SECRET}@nowhere",
]


def test_no_command_prints_a_secret(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vault_program.py").write_text(PROGRAM)
    (tmp_path / ".env").write_text(f"OTHER={SECRET}\n")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_make_vault.sql").write_text(TABLES)
    monkeypatch.chdir(tmp_path)
    for name, value in (("api", SECRET), ("CHIMPBASE_APP", "vault_program.py"), ("DATABASE_URL", dsn)):
        monkeypatch.setenv(name, value)
    told: list[str] = []

    def tell(line: list[str]) -> None:
        run(line)
        said = capsys.readouterr()
        told.extend(" ".join(line) for text in (said.out, said.err) if SECRET in text)

    for line in LINES:
        tell(line)
        if line[0] in ("call", "config"):
            tell([*line, "--debug"])
    for url in NOWHERE:
        monkeypatch.setenv("DATABASE_URL", url)
        tell(["config"])
        tell(["call", "keep", "sql=select 1", "--debug"])
    assert told == []
