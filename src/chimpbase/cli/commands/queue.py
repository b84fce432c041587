"""`chimpbase queue`: look at queues, pause and limit them, hold jobs of them, delete their dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from chimpbase import Ctx, Limits, Rate, errors
from chimpbase._core.durations import format_duration, parse_duration
from chimpbase._core.views import QueueView
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.failures import USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible

Why = Annotated[str | None, Parameter(help="Why, for whoever asks later.")]


def ls(*, app: op.App = None, output: Output = "table", watch: op.Watch = False) -> int:
    """List the queues of the database."""

    async def show(ctx: Ctx) -> str:
        found = await ctx.queue.list_queues()
        if output == "json":
            return to_json([_record(one) for one in found])
        rows = [
            (visible(one.name), one.kind, str(one.processes), visible(_limits(one)), visible(_paused(one)))
            for one in found
        ]
        return op.table(("NAME", "KIND", "PROCESSES", "LIMITS", "PAUSED"), rows)

    return op.watch(app, show, again=watch)


def stats(*, app: op.App = None, output: Output = "table", watch: op.Watch = False) -> int:
    """Count the jobs of each queue by state."""

    async def show(ctx: Ctx) -> str:
        found = await ctx.queue.list_queues()
        if output == "json":
            return to_json([_record(one) for one in found])
        rows = [
            (
                visible(one.name) + (" (paused)" if one.paused_at else ""),
                str(one.ready),
                "" if one.oldest is None else format_duration(one.oldest),
                str(one.running),
                str(one.later),
                str(one.dead),
            )
            for one in found
        ]
        return op.table(("NAME", "READY", "OLDEST", "RUNNING", "LATER", "DEAD"), rows)

    return op.watch(app, show, again=watch)


def pause(
    queue: op.QueueName,
    /,
    *,
    reason: Why = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Hand out no more jobs of a queue until it is resumed. What runs goes on."""
    op.ask(app, lambda ctx: ctx.queue.pause(queue, reason=reason, by=op.operator()))
    return op.told(f"paused {visible(queue)}", output=output, queue=queue, paused=True)


def resume(queue: op.QueueName, /, *, app: op.App = None, output: Output = "table") -> int:
    """Let a paused queue go on."""
    op.ask(app, lambda ctx: ctx.queue.resume(queue))
    return op.told(f"resumed {visible(queue)}", output=output, queue=queue, paused=False)


def limit(
    queue: op.QueueName,
    /,
    *,
    concurrency: Annotated[int | None, Parameter(help="How many run at once.")] = None,
    key_concurrency: Annotated[int | None, Parameter(help="How many of one key run at once.")] = None,
    rate: Annotated[str | None, Parameter(help="How many start in a time, such as 100/1m.")] = None,
    key_rate: Annotated[str | None, Parameter(help="How many of one key start in a time.")] = None,
    ordered: Annotated[
        Literal["strict", "pass"] | None,
        Parameter(help="One job of a key at a time, in order; with pass, one that waits for its retry is passed."),
    ] = None,
    fair: Annotated[bool, Parameter(negative=(), help="Keys take turns.")] = False,
    lift: Annotated[bool, Parameter(negative=(), help="No limits at all, whatever code says.")] = False,
    reset: Annotated[bool, Parameter(negative=(), help="What code says, again.")] = False,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Set limits of a queue over those that code declares. Held everywhere at once."""
    fields: dict[str, Any] = {
        "concurrency": concurrency,
        "key_concurrency": key_concurrency,
        "rate": _rate(rate, "--rate"),
        "key_rate": _rate(key_rate, "--key-rate"),
        "ordered": {"strict": True, "pass": "pass", None: None}[ordered],
        "fair": fair or None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if bool(given) + lift + reset != 1:
        raise CommandFailed("Give limits, such as --concurrency 5 or --rate 100/1m, or --lift, or --reset.", code=USAGE)
    try:
        limits = Limits(**given) if given else "lifted" if lift else None
    except errors.UsageError as error:
        raise CommandFailed(str(error), code=USAGE) from None

    async def work(ctx: Ctx) -> QueueView | None:
        await ctx.queue.limit(queue, limits)
        if output != "json":
            return None
        return next((one for one in await ctx.queue.list_queues() if one.name == queue), None)

    now = op.ask(app, work)
    return op.told(
        f"{'limited' if given else 'lifted the limits of' if lift else 'reset the limits of'} {visible(queue)}",
        output=output,
        queue=queue,
        limits=dict(now.limits) if now else {},
    )


def purge(
    queue: op.QueueName,
    /,
    *,
    reason: op.Reason = None,
    error: op.ErrorType = None,
    since: op.Since = None,
    until: op.Until = None,
    payload: op.Payload = None,
    limit: op.Limit = None,
    everything: op.Everything = False,
    yes: op.Yes = False,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Delete dead letters of a queue, for good."""
    given = op.dead_filter(queue=None, reason=reason, error=error, since=since, until=until, payload=payload)
    op.permit(f"Deleting dead letters of {visible(queue)}", filter=given, everything=everything, yes=yes)

    async def work(ctx: Ctx) -> int:
        total = await ctx.queue.count_dead(queue=queue, **given)
        with op.progress("purging", total) as done:
            return await ctx.queue.purge(queue=queue, limit=limit, on_progress=done, **given)

    purged = op.ask(app, work, transaction=False)
    return op.told(f"purged {purged}", output=output, queue=queue, purged=purged)


def strike(
    queue: op.QueueName,
    /,
    *,
    payload: Annotated[str, Parameter(help="JSON that the payloads of the jobs contain; {} is in every object.")],
    reason: Why = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Hold all jobs of a queue whose payload contains something, later ones too."""
    filter = op.read_json(payload)
    id = op.ask(app, lambda ctx: ctx.queue.strike(queue, filter, reason=reason, by=op.operator()))
    return op.told(f"strike {id} of {visible(queue)}", output=output, strike=id, queue=queue, payload=filter)


def strikes(*, app: op.App = None, output: Output = "table", watch: op.Watch = False) -> int:
    """List the strikes in force, the oldest first."""

    async def show(ctx: Ctx) -> str:
        found = await ctx.queue.list_strikes()
        if output == "json":
            return to_json([{**asdict(one), "created_at": one.created_at.isoformat()} for one in found])
        rows = [
            (str(one.id), visible(one.queue), visible(to_json(one.payload)), op.local(one.created_at),
             visible(one.created_by or ""), visible(one.reason or ""))
            for one in found
        ]  # fmt: skip
        return op.table(("ID", "QUEUE", "PAYLOAD", "SINCE", "BY", "REASON"), rows)

    return op.watch(app, show, again=watch)


def lift(
    strike: Annotated[int, Parameter(name="ID", help="The strike, by its id.")],
    /,
    *,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Let go of what a strike holds."""
    op.ask(app, lambda ctx: ctx.queue.lift_strike(strike))
    return op.told(f"lifted strike {strike}", output=output, strike=strike, lifted=True)


def _rate(text: str | None, option: str) -> Rate | None:
    if text is None:
        return None
    limit, slash, per = text.partition("/")
    try:
        if not slash:
            raise errors.UsageError("it has no time")
        return Rate(int(limit), per=parse_duration(per, subject=option))
    except (ValueError, errors.UsageError) as error:
        raise CommandFailed(f"{option} {text[:40]!r} must be such as 100/1m: {error}", code=USAGE) from None


def _record(one: QueueView) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "processes": one.processes,
        "limits": dict(one.limits),
        "paused_at": one.paused_at.isoformat() if one.paused_at else None,
        "paused_by": one.paused_by,
        "pause_reason": one.pause_reason,
        "ready": one.ready,
        "running": one.running,
        "later": one.later,
        "dead": one.dead,
        "oldest_s": one.oldest.total_seconds() if one.oldest is not None else None,
    }


def _limits(one: QueueView) -> str:
    return " ".join(f"{name}={_limit(value)}" for name, value in one.limits.items())


def _limit(value: Any) -> str:
    return f"{value['limit']:g}/{value['per']:g}s" if isinstance(value, dict) else str(value).lower()


def _paused(one: QueueView) -> str:
    if one.paused_at is None:
        return ""
    by = f" by {one.paused_by}" if one.paused_by else ""
    return f"since {op.local(one.paused_at)}{by}" + (f": {one.pause_reason}" if one.pause_reason else "")
