"""`chimpbase subscription`: who is owed events, and replaying them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, TypeVar

from cyclopts import Parameter

from chimpbase import Ctx, errors
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns
from chimpbase.cli.without_code import on_database

R = TypeVar("R")
App = Annotated[AppName, Parameter(name=("--app",))]


def ls(*, app: App = None, output: Output = "table") -> int:
    """List the subscriptions of the database, by name and topic."""
    found = _ask(app, lambda ctx: ctx.pubsub.subscriptions())
    if output == "json":
        print(to_json([{"name": name, "topic": topic} for name, topic in found]))
        return 0
    for line in columns([("NAME", "TOPIC"), *((visible(name), visible(topic)) for name, topic in found)]):
        print(line)
    return 0


def replay(
    subscription: Annotated[str, Parameter(help="The subscription's name.")],
    /,
    *,
    since: Annotated[str | None, Parameter(help="An instant with its zone, such as 2026-11-23T09:00:00Z.")] = None,
    app: App = None,
) -> int:
    """Deliver stored events to a subscription once more, to it alone."""
    instant = None
    if since is not None:
        try:
            instant = datetime.fromisoformat(since)
        except ValueError:
            raise errors.UsageError(f"{since[:40]!r} is no instant, such as 2026-11-23T09:00:00Z.") from None
    delivered = _ask(app, lambda ctx: ctx.pubsub.replay(subscription, since=instant))
    print(f"{delivered} events")
    return 0


def _ask(app: str | None, question: Callable[[Ctx], Awaitable[R]]) -> R:
    async def asked() -> R:
        async with on_database(app) as ctx:
            return await question(ctx)

    return asyncio.run(asked())
