"""`chimpbase event`: look at what was published, publish and broadcast by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from chimpbase import Ctx, Event, errors
from chimpbase._app.stored_event import StoredEvent
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.without_code import on_database

Topic = Annotated[str, Parameter(help="The topic.")]
Pattern = Annotated[str | None, Parameter(help="Only this topic, or topics of this pattern, such as 'order.*'.")]
Payload = Annotated[str, Parameter(help="The payload, as JSON.")]
Checked = Annotated[bool, Parameter(negative=(), help="Import the app, and hold the payload to the type of its token.")]

_LOOK_S = 0.5
_LATE = 1000


def ls(
    topic: Pattern = None,
    /,
    *,
    limit: Annotated[int, Parameter(name=("--limit", "-n"), help="At most so many.")] = 50,
    below: Annotated[int | None, Parameter(help="Only events with a lower id: the next page.")] = None,
    topics: Annotated[bool, Parameter(negative=(), help="List the topics, with how many events each has.")] = False,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """List the events that are stored, the latest first."""
    if topics:
        return _topics(app, output)
    found = op.ask(app, lambda ctx: ctx.pubsub.events(topic, below=below, limit=limit))
    if output == "json":
        print(to_json([_record(one) for one in found]))
        return 0
    rows = [(str(one.id), op.local(one.published_at), visible(one.topic), _short(one.payload)) for one in found]
    print(op.table(("ID", "PUBLISHED", "TOPIC", "PAYLOAD"), rows))
    return 0


def show(
    event: Annotated[int, Parameter(help="The event's id, as `chimpbase event ls` shows it.")],
    /,
    *,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Show one event: its payload, and what published it."""
    found = op.ask(app, lambda ctx: ctx.pubsub.events(above=event - 1, below=event + 1, limit=1))
    if not found:
        raise errors.NotFound("event", str(event))
    (one,) = found
    if output == "json":
        print(to_json(_record(one)))
        return 0
    print(f"event      {one.id} of {visible(one.topic)}")
    print(f"published  {op.local(one.published_at)} by {visible(one.cause or 'plain SQL')}")
    print(f"trace      {visible(one.trace or '-')}")
    print(f"payload    {visible(json.dumps(one.payload, ensure_ascii=False))}")
    return 0


def publish(
    topic: Topic, payload: Payload, /, *, checked: Checked = False, app: op.App = None, output: Output = "table"
) -> int:
    """Publish an event to every subscription of the topic."""
    given = op.read_json(payload)

    async def work(ctx: Ctx) -> int:
        return await ctx.pubsub.publish(_token(topic, checked), given)

    id = _with_code(app, work) if checked else op.ask(app, work)
    return op.told(f"event {id}", output=output, event=id, topic=topic)


def broadcast(
    topic: Topic, payload: Payload, /, *, checked: Checked = False, app: op.App = None, output: Output = "table"
) -> int:
    """Tell every live process, best effort."""
    given = op.read_json(payload)

    async def work(ctx: Ctx) -> None:
        await ctx.pubsub.broadcast(_token(topic, checked), given)

    _with_code(app, work) if checked else op.ask(app, work)
    return op.told(f"broadcast {visible(topic)}", output=output, topic=topic)


def tail(topic: Pattern = None, /, *, app: op.App = None, output: Output = "table") -> int:
    """Print every event as it is published, until Ctrl-C."""

    async def follow() -> None:
        async with on_database(app, transaction=False) as ctx:
            async for one in _published(ctx, topic):
                line = f"{op.local(one.published_at)}  {one.id}  {visible(one.topic)}  {_short(one.payload)}"
                print(to_json(_record(one)) if output == "json" else line, flush=True)

    asyncio.run(follow())
    return 0


async def _published(ctx: Ctx, topic: str | None) -> AsyncGenerator[StoredEvent]:
    """Events as they come. Ids are given before commits, so the latest thousand are looked at again each time."""
    seen: set[int] = {one.id for one in await ctx.pubsub.events(topic, limit=_LATE)}
    while True:
        await asyncio.sleep(_LOOK_S)
        highest = max(seen, default=0)
        page = await ctx.pubsub.events(topic, above=max(0, highest - _LATE), limit=10_000)
        for one in reversed(page):
            if one.id not in seen:
                yield one
        seen = {one.id for one in page} or seen


def _token(topic: str, checked: bool) -> Any:
    """The name, for the app's own type, or a token of any type."""
    free: Event[Any] = Event(topic)
    return topic if checked else free


def _topics(app: str | None, output: Output) -> int:
    found = op.ask(app, lambda ctx: ctx.pubsub.topics())
    if output == "json":
        print(to_json(found))
        return 0
    rows = [
        (visible(str(one["topic"])), str(one["events"]), _at(one["first_at"]), _at(one["last_at"])) for one in found
    ]
    print(op.table(("TOPIC", "EVENTS", "FIRST", "LAST"), rows))
    return 0


def _with_code(app: str | None, work: Any) -> Any:
    async def asked() -> Any:
        async with on_database(app, with_code=True) as ctx:
            return await work(ctx)

    return asyncio.run(asked())


def _record(one: StoredEvent) -> dict[str, Any]:
    return {**asdict(one), "published_at": one.published_at.isoformat()}


def _at(instant: Any) -> str:
    return op.local(instant)


def _short(payload: Any) -> str:
    text = visible(json.dumps(payload, ensure_ascii=False))
    return text if len(text) <= 100 else f"{text[:100]}..."
