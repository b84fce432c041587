"""`chimpbase event` and `chimpbase subscription`, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chimpbase import App, Ctx, Event, errors
from tests.cli.command import Running, chimpbase
from tests.running import Start, start
from tests.waiting import until

pytestmark = pytest.mark.anyio
__all__ = ["start"]

CODE = """
from dataclasses import dataclass

from chimpbase import App, Event


@dataclass
class Order:
    total: int


app = App("shop", register=[Event("order.placed", Order)])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(CODE, encoding="utf-8")
    return tmp_path


def run(project: Path, dsn: str, *words: str) -> tuple[int, str, str]:
    done = chimpbase(*words, cwd=project, env={"DATABASE_URL": dsn})
    return done.returncode, done.stdout, done.stderr


async def test_events_are_published_listed_and_shown(project: Path, dsn: str) -> None:
    assert run(project, dsn, "event", "publish", "order.placed", '{"total": 7}')[:2] == (0, "event 1\n")
    assert json.loads(run(project, dsn, "event", "publish", "page.seen", "1", "-o", "json")[1])["event"] == 2
    code, _, said = run(project, dsn, "event", "publish", "order.placed", '{"total": "x"}', "--checked")
    assert code != 0
    assert "total" in said
    (one,) = json.loads(run(project, dsn, "event", "ls", "order.*", "-o", "json")[1])
    assert (one["topic"], one["payload"]) == ("order.placed", {"total": 7})
    assert "page.seen" in run(project, dsn, "event", "ls", "--topics")[1]
    assert '{"total": 7}' in run(project, dsn, "event", "show", "1")[1]
    assert run(project, dsn, "event", "show", "77")[0] == 3


async def test_events_are_followed(project: Path, dsn: str, start: Start) -> None:
    app = App("writer", register=[Event("order.placed", dict)])
    async with start(app, workers=False):
        with Running("event", "tail", "order.#", "-o", "json", cwd=project, env={"DATABASE_URL": dsn}) as tail:

            async def told() -> bool:  # it begins with what comes, whenever that is
                await app.ctx.pubsub.publish("order.placed", {"n": 1})
                return bool(tail.output)

            await until(told, deadline_s=30)
        assert json.loads(tail.output.splitlines()[0])["topic"] == "order.placed"


async def test_a_subscription_that_no_code_declares_is_seen_and_dropped(project: Path, dsn: str, start: Start) -> None:
    app = App("shop")

    @app.subscribe("order.placed", name="old")
    async def old(ctx: Ctx, order: dict[str, int]) -> None: ...

    async with start(app):
        code, _, said = run(project, dsn, "subscription", "drop", "old", "--yes")
        assert code != 0
        assert "live process" in said
    other = App("other", register=[Event("order.placed", dict)])
    async with start(other, workers=False):
        for _ in range(3):
            await other.ctx.pubsub.publish("order.placed", {})
        assert run(project, dsn, "subscription", "pause", "old", "--reason", "it is over")[0] == 0
        (one,) = json.loads(run(project, dsn, "subscription", "ls", "-o", "json")[1])
        assert (one["name"], one["waiting"], one["processes"]) == ("old", 3, 0)
        assert one["paused_at"]
        assert run(project, dsn, "subscription", "drop", "old")[0] == 2  # it asks, and there is no terminal
        assert run(project, dsn, "subscription", "drop", "old", "--yes")[1] == "dropped old with 3 deliveries\n"
        with pytest.raises(errors.NotFound):
            await other.ctx.pubsub.drop("old")
        await other.ctx.pubsub.publish("order.placed", {})
        assert await other.ctx.pubsub.subscriptions() == []
        assert await other.ctx.queue.list_jobs() == []
