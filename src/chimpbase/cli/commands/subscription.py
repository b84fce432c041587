"""`chimpbase subscription`: who is owed events; replay events to them, pause and drop them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from chimpbase import Ctx, errors
from chimpbase._core.values import INTERNAL_QUEUES
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.logs import to_json, visible

Name = Annotated[str, Parameter(help="The subscription's name, as `chimpbase subscription ls` shows it.")]


def ls(*, app: op.App = None, output: Output = "table") -> int:
    """List the subscriptions of the database: who works them, and the deliveries that are left."""

    async def look(ctx: Ctx) -> list[dict[str, Any]]:
        queues = {one.name: one for one in await ctx.queue.list_queues()}
        return [_record(name, topic, queues.get(_queue(name))) for name, topic in await ctx.pubsub.subscriptions()]

    found = op.ask(app, look)
    if output == "json":
        print(to_json(found))
        return 0
    rows = [
        (
            visible(one["name"]),
            visible(one["topic"]),
            str(one["processes"] or "nobody"),
            str(one["waiting"]),
            str(one["running"]),
            str(one["dead"]),
            "paused" if one["paused_at"] else "",
        )
        for one in found
    ]
    print(op.table(("NAME", "TOPIC", "PROCESSES", "WAITING", "RUNNING", "DEAD", ""), rows))
    return 0


def replay(
    subscription: Name,
    /,
    *,
    since: Annotated[str | None, Parameter(help="An instant with its zone, such as 2026-11-23T09:00:00Z.")] = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Deliver stored events to a subscription once more, to it alone."""
    instant = None
    if since is not None:
        try:
            instant = datetime.fromisoformat(since)
        except ValueError:
            raise errors.UsageError(f"{since[:40]!r} is no instant, such as 2026-11-23T09:00:00Z.") from None
    delivered = op.ask(app, lambda ctx: ctx.pubsub.replay(subscription, since=instant))
    return op.told(f"{delivered} events", output=output, subscription=subscription, events=delivered)


def pause(
    subscription: Name,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Why, for whoever asks later.")] = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Let deliveries of a subscription wait until it is resumed. Those being handled go on."""
    op.ask(app, lambda ctx: ctx.queue.pause(_queue(subscription), reason=reason, by=op.operator()))
    return op.told(f"paused {visible(subscription)}", output=output, subscription=subscription, paused=True)


def resume(subscription: Name, /, *, app: op.App = None, output: Output = "table") -> int:
    """Let a paused subscription go on."""
    op.ask(app, lambda ctx: ctx.queue.resume(_queue(subscription)))
    return op.told(f"resumed {visible(subscription)}", output=output, subscription=subscription, paused=False)


def drop(
    subscription: Name,
    /,
    *,
    force: Annotated[bool, Parameter(negative=(), help="Also while a live process works it.")] = False,
    yes: op.Yes = False,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Drop a subscription that no code declares any more, with the deliveries that are left."""
    deed = f"Drop subscription {visible(subscription)} with its deliveries and dead letters"
    op.permit(deed, filter={"name": subscription}, everything=False, yes=yes)
    gone = op.ask(app, lambda ctx: ctx.pubsub.drop(subscription, force=force))
    sentence = f"dropped {visible(subscription)} with {gone} deliveries"
    return op.told(sentence, output=output, subscription=subscription, deliveries=gone)


def _queue(subscription: str) -> str:
    return INTERNAL_QUEUES["delivery"] + subscription


def _record(name: str, topic: str, queue: Any) -> dict[str, Any]:
    return {
        "name": name,
        "topic": topic,
        "processes": queue.processes if queue else 0,
        "waiting": queue.ready + queue.later if queue else 0,
        "running": queue.running if queue else 0,
        "dead": queue.dead if queue else 0,
        "paused_at": queue.paused_at.isoformat() if queue and queue.paused_at else None,
    }
