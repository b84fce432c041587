"""`chimpbase stream`: look at streams and their consumers, append by hand, and send consumers back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from chimpbase import Ctx, Entry, errors
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.failures import USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns
from chimpbase.cli.without_code import on_database

R = TypeVar("R")
Name = Annotated[str, Parameter(help="The stream's name.")]
Consumer = Annotated[str, Parameter(help="The consumer's name, as `chimpbase stream consumers` shows it.")]
App = Annotated[AppName, Parameter(name=("--app",))]
Since = Annotated[str | None, Parameter(help="An instant with its zone, such as 2026-11-23T09:00:00Z.")]
After = Annotated[str | None, Parameter(help="Go on after this position, as `-o json` prints it.")]


def ls(*, app: App = None, output: Output = "table") -> int:
    """List the streams of the database: the latest entry, the version, what is kept."""
    found = _ask(app, lambda ctx: ctx.stream.streams())
    if output == "json":
        print(to_json(found))
        return 0
    rows = [
        (
            visible(str(one["name"])),
            str(one["last_id"] or "-"),
            str(one["appended_at"] or "-"),
            str(one["version"] if one["version"] is not None else "-"),
            str(one["retention"] or "for ever"),
        )
        for one in found
    ]
    for line in columns([("NAME", "LAST", "APPENDED", "VERSION", "KEPT"), *rows]):
        print(line)
    return 0


def read(
    stream: Name,
    /,
    *,
    after: After = None,
    since: Since = None,
    limit: Annotated[int, Parameter(name=("--limit", "-n"), help="At most so many.")] = 100,
    backward: Annotated[bool, Parameter(negative=(), help="The latest first.")] = False,
    app: App = None,
    output: Output = "table",
) -> int:
    """Read entries of a stream from the beginning, a position or an instant."""
    start = _instant(since)
    found = _ask(app, lambda ctx: ctx.stream.read(stream, after=after, since=start, limit=limit, backward=backward))
    if output == "json":
        print(to_json([_record(one) for one in found]))
        return 0
    for one in found:
        print(_line(one))
    return 0


def tail(
    stream: Name, /, *, after: After = None, since: Since = None, app: App = None, output: Output = "table"
) -> int:
    """Print every entry as it is committed, until Ctrl-C."""
    start = _instant(since)

    async def follow() -> None:
        async with (
            on_database(app, transaction=False) as ctx,
            aclosing(ctx.stream.tail(stream, after=after, since=start)) as entries,
        ):
            async for one in entries:
                print(to_json(_record(one)) if output == "json" else _line(one), flush=True)

    asyncio.run(follow())
    return 0


def append(
    stream: Name,
    payload: Annotated[str, Parameter(help="The payload, as JSON.")],
    /,
    *,
    key: Annotated[str | None, Parameter(help="The key; its entries are handled in their order.")] = None,
    expected_version: Annotated[int | None, Parameter(help="How many entries the stream must have.")] = None,
    app: App = None,
) -> int:
    """Append an entry to a stream."""
    try:
        given = json.loads(payload)
    except ValueError as error:
        raise CommandFailed(f"The payload is no JSON: {error}.", code=USAGE) from None
    id = _ask(app, lambda ctx: ctx.stream.append(stream, given, key=key, expected_version=expected_version))
    print(f"entry {id}")
    return 0


def consumers(*, app: App = None, output: Output = "table") -> int:
    """List the consumers: how far behind each partition is, who is at it, what stops it."""
    found = _ask(app, lambda ctx: ctx.stream.consumers())
    if output == "json":
        print(to_json(found))
        return 0
    rows = [
        (
            visible(str(one["name"])),
            visible(str(one["stream"])),
            f"{one['slot']}/{one['partitions']}",
            str(one["lag"]) if int(str(one["lag"])) <= 10_000 else "> 10000",
            str(one["dead"]),
            "paused" if one["paused_at"] else "stopped" if one["blocked_at"] else "running",
            visible(str(one["error"] or ""))[:80],
        )
        for one in found
    ]
    for line in columns([("NAME", "STREAM", "PART", "LAG", "DEAD", "STATE", "ERROR"), *rows]):
        print(line)
    return 0


def dead(
    consumer: Consumer,
    /,
    *,
    limit: Annotated[int, Parameter(name=("--limit", "-n"), help="At most so many.")] = 100,
    app: App = None,
    output: Output = "table",
) -> int:
    """List the dead letters of a consumer."""
    found = _ask(app, lambda ctx: ctx.stream.dead(consumer, limit=limit))
    if output == "json":
        print(to_json([{**one, "payload": json.loads(str(one["payload"]))} for one in found]))
        return 0
    rows = [
        (
            str(one["entry"]),
            f"{one['died_at']:%Y-%m-%d %H:%M:%S}",
            "again" if one["redriven_at"] else "",
            visible(str(one["error"]))[:80],
            visible(str(one["payload"]))[:80],
        )
        for one in found
    ]
    for line in columns([("ENTRY", "DIED", "", "ERROR", "PAYLOAD"), *rows]):
        print(line)
    return 0


def redrive(
    consumer: Consumer,
    entries: Annotated[list[int] | None, Parameter(help="Only these entries.")] = None,
    /,
    *,
    everything: op.Everything = False,
    yes: op.Yes = False,
    app: App = None,
) -> int:
    """Have dead letters of a consumer handled once more."""
    deed = f"Redriving dead letters of {visible(consumer)}"
    op.permit(deed, filter={"entries": entries} if entries else {}, everything=everything, yes=yes or bool(entries))
    redriven = _ask(app, lambda ctx: ctx.stream.redrive(consumer, entries=entries or None))
    print(f"redriven {redriven}")
    return 0


def rewind(
    consumer: Consumer,
    /,
    *,
    to: Annotated[str, Parameter(help="beginning, now, an instant with its zone, or a position.")] = "beginning",
    app: App = None,
) -> int:
    """Send a consumer to another place; what it does from there it does again."""
    place: str | datetime = to
    if to not in {"beginning", "now"} and not to.startswith("s1."):
        place = _instant(to) or to
    _ask(app, lambda ctx: ctx.stream.rewind(consumer, to=place))
    print(f"rewound {visible(consumer)}")
    return 0


def pause(consumer: Consumer, /, *, app: App = None) -> int:
    """Let a consumer begin no further batch until it is resumed."""
    _ask(app, lambda ctx: ctx.stream.pause(consumer))
    print(f"paused {visible(consumer)}")
    return 0


def resume(consumer: Consumer, /, *, app: App = None) -> int:
    """Let a consumer go on, also from an entry that has stopped it."""
    _ask(app, lambda ctx: ctx.stream.resume(consumer))
    print(f"resumed {visible(consumer)}")
    return 0


def _ask(app: str | None, question: Callable[[Ctx], Awaitable[R]]) -> R:
    async def asked() -> R:
        async with on_database(app) as ctx:
            return await question(ctx)

    return asyncio.run(asked())


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise errors.UsageError(f"{text[:40]!r} is no instant with a time zone, such as 2026-11-23T09:00:00Z.")
    return found


def _record(entry: Entry[Any]) -> dict[str, object]:
    return {
        "id": entry.id,
        "payload": entry.payload,
        "key": entry.key,
        "version": entry.version,
        "appended_at": entry.appended_at.isoformat(),
        "position": entry.position,
    }


def _line(entry: Entry[Any]) -> str:
    key = f"{visible(entry.key)}  " if entry.key else ""
    return f"{entry.appended_at:%Y-%m-%d %H:%M:%S}  {entry.id}  {key}{visible(json.dumps(entry.payload))}"
