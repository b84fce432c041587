"""Inline subscriptions: handlers that run in the publisher's own transaction, right when it publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from chimpbase._app.origin import Origin
from chimpbase._core.topics import holds, matches

if TYPE_CHECKING:
    from chimpbase._app.definitions import Subscription
    from chimpbase._app.registry import Registry


def inline_subscriptions(registry: Registry, topic: str, payload: str) -> list[Subscription[Any]]:
    """Those of this app that are to run for an event, by name."""
    found = [
        one
        for _, one in sorted(registry.subscriptions.items())
        if one.dispatch == "inline" and matches(topic, one.event.name)
    ]
    plain: Any = msgspec.json.decode(payload) if any(one.conditions for one in found) else None
    return [one for one in found if holds(plain, one.conditions)]


def inline_call(publisher: Origin, one: Subscription[Any], *, topic: str, payload: str) -> tuple[Origin, Any]:
    """Where the call of one of them comes from, and what it is given."""
    trace = publisher.trace
    origin = Origin(
        title=one.title,
        name=one.name,
        cause=f"subscription:{one.name}",
        new_trace=lambda: trace,
        trace=trace,
        topic=topic,
    )
    return origin, one.event.codec.decode(payload, subject=f"payload of event {topic!r}")
