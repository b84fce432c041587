"""Publishing to 1, 5 and 50 subscriptions: every event is stored once and owed to each of them, in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from bench.group import Group
from bench.state_limits import WRITERS
from bench.timed import rate_of
from chimpbase import App, Ctx, Event, subscribe


class Topic(NamedTuple):
    """An event, and who subscribes to it."""

    event: Event[int]
    subscriptions: Sequence[Any]


@cache
def topics() -> Sequence[Topic]:
    """One for each number of subscriptions."""
    return [_topic(count) for count in (1, 5, 50)]


def _topic(count: int) -> Topic:
    event = Event(f"bench.told{count}", int)

    async def hear(ctx: Ctx, number: int) -> None: ...

    return Topic(event, [subscribe(event, name=f"bench.hear{count}.{n}")(hear) for n in range(count)])


class Events:
    """The part of the group."""

    def __init__(self, group: Group) -> None:
        self.group = group

    async def publish(self) -> None:
        """From sixteen callers at once, each call durable when it returns."""
        group, stand = self.group, self.group.stand
        app = App("bench", register=[one for topic in topics() for one in topic.subscriptions])
        for topic in topics():
            await stand.clean()
            await stand.value("truncate chimpbase.event")
            count = len(topic.subscriptions)
            async with stand.running(app, workers=False):
                publish = app.ctx.pubsub.publish
                await publish(topic.event, 0)
                rate, done = await rate_of(
                    lambda number, event=topic.event, publish=publish: publish(event, number),
                    callers=WRITERS,
                    seconds=group.sizes.seconds(3, least=1),
                )
            stored = await stand.value("select count(*) from chimpbase.event")
            owed = await stand.value(
                "select count(distinct (queue, headers::jsonb -> 'event')) from chimpbase.job where headers is not null"
            )
            if stored != done + 1 or owed != stored * count:
                raise RuntimeError(f"{done + 1} events to {count}: {stored} stored, {owed} deliveries")
            name = f"publish to {count} subscription{'s' if count > 1 else ''}, {WRITERS} callers"
            group.add(name, rate, limit=group.limits[f"publish to {count}"])
        await stand.clean()
