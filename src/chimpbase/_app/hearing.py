"""Turns handlers of broadcasts into what the engine can call: each has a ctx and a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from chimpbase._app.backstage import Backstage
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import OnBroadcast
from chimpbase._app.invoke import invoke
from chimpbase._app.origin import Origin
from chimpbase._core.topics import matches, regular_expression
from chimpbase._engine.broadcasts import BroadcastKeeper, Hearing, Receiver
from chimpbase._pg.db import Db
from chimpbase._pg.losses import through_losses
from chimpbase._store.broadcasts import Broadcast


def hearings_of(stage: Backstage) -> list[Hearing]:
    """What this app does about broadcasts."""
    return [_hearing(stage, one) for one in stage.registry.on_broadcasts.values()]


async def hear(stage: Backstage, db: Db, rooms: AsyncExitStack, *, poll_s: float, random: Callable[[], float]) -> None:
    """Hear everything that is committed from now on, until the rooms are left."""
    found = hearings_of(stage)
    if not found:
        return
    receiver = Receiver(db, found, poll_s=poll_s, random=random)
    await through_losses(receiver.begin, what="listening to broadcasts", random=random)
    # also where none works queues, who would see to it
    keeper = BroadcastKeeper(db, random=random)
    for service in (receiver, keeper):
        rooms.push_async_callback(service.stop)
        service.start()
    stage.engine.on_broadcast = receiver.wake


async def receive(receiver: Receiver, *, raising: bool) -> bool:
    """Handle what was broadcast by now; whether anything was. With `raising` the first error is raised, not logged."""
    await receiver.tick()
    heard = False
    for hearer in receiver.hearers:
        while hearer.has_more:
            heard = True
            await (hearer.take() if raising else hearer.tick())
    return heard


def _hearing(stage: Backstage, definition: OnBroadcast[Any]) -> Hearing:
    topic, codec, on_gap = definition.event.name, definition.event.codec, definition.on_gap

    async def handle(one: Broadcast) -> None:
        payload = codec.decode(one.payload, subject=f"payload of broadcast {one.topic!r}")
        headers: dict[str, Any] = msgspec.json.decode(one.headers) if one.headers else {}
        origin = Origin(
            title=definition.title,
            name=definition.name,
            cause=f"broadcast:{definition.name}",
            new_trace=stage.new_trace,
            trace=headers.get("trace"),
            topic=one.topic,
        )
        async with stage.unit(origin.title) as unit:
            await invoke(stage, definition, Ctx(stage, unit.root, origin), (payload,), {})

    async def gap() -> None:
        if on_gap is None:
            return
        # like a plain handler it may block; if it is async, calling it does nothing yet
        pending = await asyncio.get_running_loop().run_in_executor(stage.threads, on_gap)
        if pending is not None:
            await pending

    return Hearing(
        title=definition.title,
        topics=regular_expression(topic),
        wants=lambda given: matches(given, topic),
        handle=handle,
        on_gap=gap,
    )
