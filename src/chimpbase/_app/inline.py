"""Inline subscriptions: handlers that run in the publisher's own transaction, right when it publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from chimpbase._core.topics import holds, matches

if TYPE_CHECKING:
    from chimpbase._app.definitions import Subscription
    from chimpbase._app.origin import Origin
    from chimpbase._app.registry import Registry
    from chimpbase._app.stage import Stage
    from chimpbase._app.unit import Frame


def inline_subscriptions(registry: Registry, topic: str, payload: str) -> list[Subscription[Any]]:
    """Those of this app that are to run for an event, by name."""
    found = [
        one
        for _, one in sorted(registry.subscriptions.items())
        if one.dispatch == "inline" and matches(topic, one.event.name)
    ]
    plain: Any = msgspec.json.decode(payload) if any(one.conditions for one in found) else None
    return [one for one in found if holds(plain, one.conditions)]


async def run_inline(
    stage: Stage, frame: Frame, publisher: Origin, one: Subscription[Any], *, topic: str, payload: str
) -> None:
    """Run one of them in a frame of the publisher's; its error is the publisher's."""
    from chimpbase._app.ctx import Ctx
    from chimpbase._app.invoke import invoke
    from chimpbase._app.origin import Origin

    trace = publisher.trace
    origin = Origin(
        title=one.title,
        name=one.name,
        cause=f"subscription:{one.name}",
        new_trace=lambda: trace,
        trace=trace,
        topic=topic,
    )
    given = one.event.codec.decode(payload, subject=f"payload of event {topic!r}")
    await invoke(stage, one, Ctx(stage, frame, origin), (given,), {})
