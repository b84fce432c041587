"""`chimpbase workflow`: look at runs, steer them, and ask whether they can go on with this code."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter

from chimpbase import Ctx, HistoryEntry, Run
from chimpbase._app import admin
from chimpbase._app.config import read_settings
from chimpbase._core.durations import parse_duration
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.commands.workflow_contracts import contracts as contracts
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.failures import FAILURE, USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns
from chimpbase.cli.timeline import page

Id = Annotated[str, Parameter(help="The run's id, as `chimpbase workflow ls` shows it.")]
App = Annotated[AppName, Parameter(name=("--app",))]
StepKey = Annotated[str, Parameter(name=("--step",), help="The step's key, such as charge#1; see show.")]


def ls(
    *,
    workflow: Annotated[str | None, Parameter(help="Only runs of this workflow.")] = None,
    status: Annotated[list[str] | None, Parameter(help="Only runs in this status; may be repeated.")] = None,
    attribute: Annotated[
        list[str] | None, Parameter(help="Only runs with this attribute: name=text or name:=json.")
    ] = None,
    since: Annotated[str | None, Parameter(help="Started at this time or later, or an age such as 2h.")] = None,
    until: Annotated[str | None, Parameter(help="Started before this time.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    app: App = None,
    output: Output = "table",
) -> int:
    """List runs, the newest first."""
    wanted = dict(_pair(one) for one in attribute or ()) or None
    found = op.ask(
        app,
        lambda ctx: ctx.workflow.find(
            workflow,
            status=cast("Any", status) or None,
            attributes=wanted,
            since=op.instant(since, "--since"),
            until=op.instant(until, "--until"),
            most=limit,
        ),
    )
    if output == "json":
        print(to_json([_record(run) for run in found]))
        return 0
    rows = [
        (
            visible(run.id),
            visible(f"{run.workflow}@{run.version}"),
            run.status,
            _shown(run.started_at),
            visible(run.why),
        )
        for run in found
    ]
    for line in columns([("ID", "WORKFLOW", "STATUS", "STARTED", "WHY"), *rows]):
        print(line)
    return 0


def show(run: Id, /, *, app: App = None, output: Output = "table") -> int:
    """Show what a run has done, step by step, and why it is where it is."""
    found, history = op.ask(app, lambda ctx: _told(ctx, run))
    if output == "json":
        print(to_json({**_record(found), "history": [_plain(asdict(entry)) for entry in history]}))
        return 0
    print("\n".join(page(found, history)))
    return 0


def export(run: Id, /, *, app: App = None) -> int:
    """Print the journal of a run, for a file that `chimpbase.testing.replay` reads."""
    print(op.ask(app, lambda ctx: ctx.workflow.export(run)), end="")
    return 0


def start(
    workflow: Annotated[str, Parameter(help="The workflow's name.")],
    /,
    *,
    input: Annotated[str, Parameter(help="The input as JSON.")] = "null",
    id: Annotated[str | None, Parameter(name=("--id",), help="The run's id. Default: made up.")] = None,
    delay: Annotated[str | None, Parameter(help="Begin after this time, such as 5m.")] = None,
    attribute: Annotated[
        list[str] | None, Parameter(help="What it can be found by: name=text or name:=json; may be repeated.")
    ] = None,
    on_conflict: Annotated[
        Literal["fail", "use_existing", "replace"], Parameter(help="What to do when a run with that id exists.")
    ] = "fail",
    app: App = None,
    output: Output = "table",
) -> int:
    """Start a run; the processes that run workflows take it."""
    value = op.read_json(input)
    options: dict[str, Any] = {"attributes": dict(map(_pair, attribute))} if attribute else {}
    if delay is not None:
        options["delay"] = parse_duration(delay, subject="--delay")

    async def begin(ctx: Ctx) -> str:
        made: Any = await ctx.workflow.start(workflow, value, id=id, on_conflict=on_conflict, **options)
        return str(made.id)

    made = op.ask(app, begin, with_code=True)
    return op.told(visible(made), output=output, run=made, did="start")


def signal(
    run: Id,
    name: Annotated[str, Parameter(help="The signal's name.")],
    /,
    *,
    payload: Annotated[str, Parameter(help="The payload as JSON.")] = "null",
    dedupe: Annotated[str | None, Parameter(help="Of signals with the same key the first counts.")] = None,
    app: App = None,
    output: Output = "table",
) -> int:
    """Send a signal to a run. It is kept until the run waits for it."""
    value = op.read_json(payload)
    op.ask(app, lambda ctx: ctx.workflow.signal(run, name, value, dedupe=dedupe))
    return op.told(f"sent {visible(name)} to {visible(run)}", output=output, run=run, did="signal")


def cancel(
    run: Id,
    /,
    *,
    reason: Annotated[str, Parameter(help="Why; it is kept with the run.")] = "cancelled by hand",
    force: Annotated[bool, Parameter(negative=(), help="End it at once, without its code cleaning up.")] = False,
    app: App = None,
    output: Output = "table",
) -> int:
    """Cancel a run: its code cleans up, what it did is undone, and its children end with it."""
    op.ask(app, lambda ctx: ctx.workflow.cancel(run, reason, force=force))
    return op.told(f"{visible(run)} is to end", output=output, run=run, did="cancel")


def pause(run: Id, /, *, app: App = None, output: Output = "table") -> int:
    """Let a run begin nothing new until it is resumed."""
    op.ask(app, lambda ctx: ctx.workflow.pause(run))
    return op.told(f"{visible(run)} begins nothing new", output=output, run=run, did="pause")


def resume(run: Id, /, *, app: App = None, output: Output = "table") -> int:
    """Let a paused run go on."""
    op.ask(app, lambda ctx: ctx.workflow.resume(run))
    return op.told(f"{visible(run)} goes on", output=output, run=run, did="resume")


def retry(run: Id, /, *, app: App = None, output: Output = "table") -> int:
    """Let a blocked run go on with the code as it is now, or a failed one repeat the step that failed."""
    op.ask(app, lambda ctx: ctx.workflow.retry(run))
    return op.told(f"{visible(run)} goes on", output=output, run=run, did="retry")


def rewind(run: Id, /, *, step: StepKey, app: App = None, output: Output = "table") -> int:
    """Do everything from a step on once more. What those steps did is not taken back."""
    op.ask(app, lambda ctx: ctx.workflow.rewind(run, to=step))
    return op.told(f"{visible(run)} goes back to {visible(step)}", output=output, run=run, did="rewind")


def fork(
    run: Id,
    /,
    *,
    step: StepKey,
    id: Annotated[str | None, Parameter(name=("--id",), help="The new run's id. Default: made up.")] = None,
    app: App = None,
    output: Output = "table",
) -> int:
    """Start another run with the same input and what this one had done before a step."""

    async def forked(ctx: Ctx) -> str:
        made: Any = await ctx.workflow.fork(ctx.workflow.handle(run), at=step, id=id)
        return str(made.id)

    made = op.ask(app, forked)
    return op.told(visible(made), output=output, run=made, did="fork", of=run)


def check(
    *,
    workflow: Annotated[str | None, Parameter(help="Only runs of this workflow.")] = None,
    app: App = None,
    output: Output = "table",
) -> int:
    """Replay every run that has not ended over the code at hand. Writes nothing; exits 1 if one could not go on."""
    target = find_target(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=target.project)
    registry = load_app(target).registry

    async def checked() -> list[Any]:
        async with admin.database(settings, project=target.project, environ=os.environ) as database:
            return list(await admin.check_runs(database, settings=settings, registry=registry, workflow=workflow))

    verdicts = asyncio.run(checked())
    bad = [one for one in verdicts if one.problem is not None]
    if output == "json":
        print(to_json([asdict(one) for one in verdicts]))
    else:
        for one in bad:
            print(f"{visible(one.id)}  {visible(one.workflow)}@{one.version}: {visible(one.problem)}")
        print(f"{len(verdicts)} runs checked, {len(bad)} cannot go on with this code")
    return FAILURE if bad else 0


async def _told(ctx: Ctx, run: str) -> tuple[Run, tuple[HistoryEntry, ...]]:
    return await ctx.workflow.get(run), await ctx.workflow.history(run)


def _record(run: Run) -> dict[str, Any]:
    return _plain({**asdict(run), "why": run.why})


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}


def _pair(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition(":=")
    if mark:
        return name, op.read_json(value)
    name, mark, value = text.partition("=")
    if not mark:
        raise CommandFailed(f"--attribute {text!r} must be name=text or name:=json.", code=USAGE)
    return name, value


def _shown(instant: datetime) -> str:
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"
