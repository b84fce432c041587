"""Rules and names that make no sense, from Python and from plain SQL."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Unique
from chimpbase.errors import PayloadError, UsageError
from tests.app.syncs import Sync, app, held, syncs

__all__ = ["app", "held"]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": 7},
        {"key": ""},
        {"key": "a\0"},
        {"fields": "user"},
        {"fields": (1,)},
        {"states": ()},
        {"states": ("sleeping",)},
        {"states": "waiting"},
        {"on_conflict": "merge"},
        {"period": 0},
        {"period": -5},
        {"period": True},
        {"period": float("inf")},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Unique(**arguments)


async def test_a_name_that_cannot_be_one_is_refused(app: App) -> None:
    with pytest.raises(PayloadError):
        await app.ctx.queue.enqueue(syncs, Sync(1), unique="x" * 600)
    with pytest.raises(PayloadError):
        await app.ctx.queue.enqueue(syncs, Sync(1), idempotency_key="")
    with pytest.raises(UsageError, match="unique must be"):
        await app.ctx.queue.enqueue(syncs, Sync(1), unique=7)  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(UsageError, match="not with both"):
        await app.ctx.queue.enqueue(syncs, Sync(1), unique="a", idempotency_key="b")


@pytest.mark.parametrize(
    "options",
    [
        {"unique": 7},
        {"unique": ""},
        {"unique": {"by": "x"}},
        {"unique": {"fields": []}},
        {"unique": {"fields": [1]}},
        {"unique": {"states": ["asleep"]}},
        {"unique": {"states": []}},
        {"unique": {"states": "waiting"}},
        {"unique": {"on_conflict": "merge"}},
        {"unique": {"period": 0}},
        {"idempotency_key": 5},
        {"idempotency_key": "a", "unique": "b"},
    ],
)
async def test_plain_sql_refuses_a_rule_that_makes_no_sense(
    app: App, outside: asyncpg.Connection, options: object
) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await outside.fetchval("""select chimpbase.enqueue('syncs', '{"user": 1}', $1)""", json.dumps(options))
    assert getattr(refused.value, "sqlstate", None) == "CB002"


async def test_plain_sql_raises_with_the_id_that_is_there(app: App, outside: asyncpg.Connection) -> None:
    first = await app.ctx.queue.enqueue(syncs, Sync(1), unique="u")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await outside.fetchval(
            """select chimpbase.enqueue('syncs', '{}', '{"unique": {"key": "u", "on_conflict": "raise"}}')"""
        )
    assert getattr(refused.value, "sqlstate", None) == "CB006"
    assert getattr(refused.value, "detail", None) == str(int(first))
