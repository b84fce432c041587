"""`chimpbase cron`: look at schedules, and stop, start and run them by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

from cyclopts import Parameter

from chimpbase import Cadence, Ctx, Schedule, errors
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.failures import USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns
from chimpbase.cli.without_code import on_database

R = TypeVar("R")
Name = Annotated[str, Parameter(help="The schedule's name, as `chimpbase cron ls` shows it.")]
App = Annotated[AppName, Parameter(name=("--app",))]


def ls(
    *,
    prefix: Annotated[str, Parameter(help="Only names that begin so.")] = "",
    limit: Annotated[int, Parameter(help="At most so many, by name.")] = 1000,
    app: App = None,
    output: Output = "table",
) -> int:
    """List the schedules of the database, those of other versions of the code too."""
    found = _ask(app, lambda ctx: ctx.cron.list(prefix=prefix, limit=limit))
    if output == "json":
        print(to_json([_record(one) for one in found]))
        return 0
    rows = [
        (visible(one.name), visible(one.to), _cadence(one), _state(one), _shown(one.last_at, one.tz), _words(one))
        for one in found
    ]
    for line in columns([("NAME", "RUNS", "CADENCE", "NEXT", "LAST", "IN WORDS"), *rows]):
        print(line)
    return 0


def next(
    schedule: Annotated[str, Parameter(help="A schedule's name, or an expression such as '0 9 * * 1-5'.")],
    /,
    *,
    count: Annotated[int, Parameter(name=("--count", "-n"), help="How many instants.")] = 5,
    tz: Annotated[str | None, Parameter(help="The time zone of an expression. Default: UTC.")] = None,
    app: App = None,
    output: Output = "table",
) -> int:
    """Show when a schedule, or an expression that no schedule has yet, is due next."""
    if " " in schedule.strip() or schedule.startswith("@"):
        cadence, instants = _imagined(schedule, tz, count)
    else:
        if tz is not None:
            raise CommandFailed("--tz is for an expression; a schedule has its own time zone.", code=USAGE)
        cadence, instants = _ask(app, lambda ctx: _upcoming(ctx, schedule, count))
    if output == "json":
        print(to_json({"in_words": cadence.explain(), "next": [one.isoformat() for one in instants]}))
        return 0
    print(cadence.explain())
    for instant in instants:
        print(f"{_shown(instant, cadence.tz)}  ({instant:%Y-%m-%dT%H:%M:%SZ})")
    return 0


def run(
    schedule: Name,
    /,
    *,
    payload: Annotated[str | None, Parameter(help="JSON for this job instead of the schedule's own payload.")] = None,
    app: App = None,
) -> int:
    """Make a job of a schedule now, paused or not; the processes that run workers take it."""
    terms = {} if payload is None else {"payload": _json(payload)}
    job = _ask(app, lambda ctx: ctx.cron.run_now(schedule, **terms), with_code=payload is not None)
    print(f"job {job}")
    return 0


def pause(schedule: Name, /, *, app: App = None) -> int:
    """Stop a schedule until it is resumed. Its jobs that are there already run."""
    _ask(app, lambda ctx: ctx.cron.pause(schedule))
    print(f"paused {visible(schedule)}")
    return 0


def resume(schedule: Name, /, *, app: App = None) -> int:
    """Let a paused schedule go on; what fell into the pause is not made up for."""
    _ask(app, lambda ctx: ctx.cron.resume(schedule))
    print(f"resumed {visible(schedule)}")
    return 0


def remove(schedule: Name, /, *, app: App = None) -> int:
    """Forget a schedule. One that code declares comes back when that code starts."""
    if not _ask(app, lambda ctx: ctx.cron.remove(schedule)):
        raise errors.NotFound("schedule", schedule)
    print(f"removed {visible(schedule)}")
    return 0


def _ask(app: str | None, question: Callable[[Ctx], Awaitable[R]], *, with_code: bool = False) -> R:
    async def asked() -> R:
        async with on_database(app, with_code=with_code) as ctx:
            return await question(ctx)

    return asyncio.run(asked())


async def _upcoming(ctx: Ctx, name: str, count: int) -> tuple[Cadence, list[datetime]]:
    return (await ctx.cron.get(name)).cadence, await ctx.cron.next(name, count=count)


def _imagined(expression: str, tz: str | None, count: int) -> tuple[Cadence, list[datetime]]:
    if not 1 <= count <= 1000:
        raise CommandFailed(f"--count must be a whole number from 1 to 1000, not {count}.", code=USAGE)
    try:
        cadence = Cadence(expression, "UTC" if tz is None else tz)
    except errors.UsageError as error:
        raise CommandFailed(str(error), code=USAGE) from None
    instants = [cadence.next_after(datetime.now(UTC))]
    while len(instants) < count:
        instants.append(cadence.next_after(instants[-1]))
    return cadence, instants


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"--payload {text:.60} is not JSON: {error}. Quote it for the shell.", code=USAGE) from None


def _record(one: Schedule) -> dict[str, Any]:
    return {
        "name": one.name,
        "to": one.to,
        "expression": one.expression,
        "tz": one.tz,
        "in_words": _words(one),
        "payload": one.payload,
        "misfire": one.misfire,
        "max_missed": one.max_missed,
        "overlap": one.overlap,
        "jitter_s": one.jitter.total_seconds(),
        "declared": one.declared,
        "paused_at": one.paused_at.isoformat() if one.paused_at else None,
        "next_at": one.next_at.isoformat(),
        "last_at": one.last_at.isoformat() if one.last_at else None,
    }


def _cadence(one: Schedule) -> str:
    return one.expression if one.tz == "UTC" else f"{one.expression} ({one.tz})"


def _state(one: Schedule) -> str:
    return "paused" if one.paused_at else _shown(one.next_at, one.tz)


def _words(one: Schedule) -> str:
    try:
        return one.cadence.explain()
    except errors.UsageError as error:
        return f"this version cannot read it: {error}"


def _shown(instant: datetime | None, tz: str) -> str:
    if instant is None:
        return "never"
    try:
        local = instant.astimezone(ZoneInfo(tz))
    except (KeyError, ValueError, OSError):
        local = instant
    return f"{local:%Y-%m-%d %H:%M:%S %Z}"
