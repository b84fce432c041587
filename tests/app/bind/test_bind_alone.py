"""Bind: programs that never run the app, and have no event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from chimpbase import App, SyncCtx
from chimpbase._core.errors import NotFound, UniqueViolation
from tests.app.bind.callers import configure_django, django_atomic, django_database, sqlalchemy_url
from tests.app.bind.shop import Ship, paid, placed, ships


@contextmanager
def through_psycopg(app: App, dsn: str) -> Iterator[SyncCtx]:
    with psycopg.connect(dsn) as connection:
        yield app.bind(connection)


@contextmanager
def through_sqlalchemy(app: App, dsn: str) -> Iterator[SyncCtx]:
    engine = create_engine(sqlalchemy_url(dsn, "psycopg"))
    try:
        with Session(engine) as session, session.begin():
            yield app.bind(session)
    finally:
        engine.dispose()


@contextmanager
def through_django(app: App, dsn: str) -> Iterator[SyncCtx]:
    configure_django()
    from django.db import connection

    connection.settings_dict.update(django_database(dsn))
    try:
        with django_atomic():
            yield app.bind(connection)
    finally:
        connection.close()


WAYS = [through_psycopg, through_sqlalchemy, through_django]


@pytest.mark.parametrize("way", WAYS)
def test_a_program_without_an_event_loop_produces(app: App, dsn: str, way: Any) -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    with way(app, dsn) as ctx:
        assert isinstance(ctx, SyncCtx)
        ctx.queue.enqueue(ships, Ship("a"))
        ctx.queue.enqueue(ships, Ship("b"), delay=timedelta(minutes=1))
        ctx.pubsub.publish(placed, Ship("c"))
        run = ctx.workflow.start("checkout", "d")
        ctx.workflow.signal(run, paid, True)
        ctx.kv.set("key", [1], ttl=60)
        assert ctx.workflow.get(run).status == "running"
    with psycopg.connect(dsn) as connection:
        counts = connection.execute(
            "select (select count(*) from chimpbase.job), (select count(*) from chimpbase.job_later), "
            "(select count(*) from chimpbase.signal), (select value from chimpbase.kv)"
        ).fetchone()
    assert counts == (3, 1, 1, "[1]")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_program_takes_all_of_it_back(app: App, dsn: str, way: Any) -> None:
    with pytest.raises(ZeroDivisionError), way(app, dsn) as ctx:
        ctx.queue.enqueue(ships, Ship("a"))
        raise ZeroDivisionError
    with pytest.raises(UniqueViolation), way(app, dsn) as ctx:
        ctx.queue.enqueue(ships, Ship("a"))
        ctx.db.execute("insert into chimpbase.queue (name) select name from chimpbase.queue")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from chimpbase.job").fetchone() == (0,)


def test_secrets_come_from_the_environment(app: App, dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANK_KEY", "from the environment")
    (tmp_path / ".env").write_text("OTHER_KEY='from the file'\n")
    with through_psycopg(app, dsn) as ctx:
        assert (ctx.secret("BANK_KEY"), ctx.secret("OTHER_KEY")) == ("from the environment", "from the file")
        with pytest.raises(NotFound, match="NO_KEY"):
            ctx.secret("NO_KEY")


def test_everything_of_one_ctx_shares_a_trace(app: App, dsn: str) -> None:
    with through_psycopg(app, dsn) as ctx:
        ctx.queue.enqueue(ships, Ship("a"))
        ctx.pubsub.publish(placed, Ship("b"))
        headers = ctx.db.fetch("select headers::jsonb ->> 'trace' as trace from chimpbase.job")
        assert headers == [{"trace": ctx.trace_id}] * 2
        assert len(ctx.trace_id) == 32
