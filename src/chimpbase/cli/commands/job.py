"""`chimpbase job`: look at jobs, say why they do not run, cancel them, and give dead ones new attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from chimpbase import Ctx, DeadJob, Explanation, JobStatus, errors
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.failures import FAILURE, NOT_FOUND, USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible

Ids = Annotated[int, Parameter(name="ID", help="The jobs, by their ids.")]
Id = Annotated[int, Parameter(name="ID", help="The job, by its id.")]
State = Annotated[
    Literal["ready", "running", "later", "dead", "done"] | None,
    Parameter(help="Only jobs in this state. Without it, all that are not done."),
]


def ls(
    *,
    queue: op.Queue = None,
    state: State = None,
    limit: Annotated[int, Parameter(help="At most so many, newest first.")] = 100,
    app: op.App = None,
    output: Output = "table",
    watch: op.Watch = False,
) -> int:
    """List jobs, newest first."""

    async def show(ctx: Ctx) -> str:
        found = await ctx.queue.list_jobs(queue=queue, state=state, limit=limit)
        if output == "json":
            return to_json(
                [{**asdict(one), "enqueued_at": one.enqueued_at.isoformat(), "at": _iso(one.at)} for one in found]
            )
        rows = [
            (str(one.id), visible(one.queue), one.state, str(one.attempts), op.local(one.enqueued_at), op.local(one.at),
             visible(one.payload[:60]))
            for one in found
        ]  # fmt: skip
        return op.table(("ID", "QUEUE", "STATE", "ATTEMPTS", "ENQUEUED", "AT", "PAYLOAD"), rows)

    return op.watch(app, show, again=watch)


def show(id: Id, /, *, app: op.App = None, output: Output = "table") -> int:
    """Show one job: where it is and why, what it carries, what came of it, and how its attempts failed."""

    async def look(ctx: Ctx) -> tuple[Explanation, JobStatus | None, DeadJob | None]:
        dead = await ctx.queue.dead(ids=[id])
        try:
            status = await ctx.queue.get(id)
        except errors.NotFound:
            status = None
        return await ctx.queue.explain(id), status, dead[0] if dead else None

    why, status, dead = op.ask(app, look)
    if output == "json":
        carried = {"status": _status(status) if status else None, "dead": _dead(dead) if dead else None}
        print(to_json({**_record(why), **carried}))
        return NOT_FOUND if why.state == "unknown" else 0
    print(visible(why.summary))
    facts: dict[str, Any] = {**why.facts, **(_carried(status) if status else {})}
    for line in op.table(
        ("FACT", "VALUE"), [(name, visible(_value(value))) for name, value in facts.items()]
    ).splitlines():
        print(line)
    for failure in status.errors if status else ():
        print(f"\nattempt {failure.attempt}: {visible(failure.message)}")
    return NOT_FOUND if why.state == "unknown" else 0


def why(id: Id, /, *, app: op.App = None, output: Output = "table") -> int:
    """Say why a job is not running, in one sentence."""
    found = op.ask(app, lambda ctx: ctx.queue.explain(id))
    print(to_json(_record(found)) if output == "json" else visible(found.summary))
    return NOT_FOUND if found.state == "unknown" else 0


def retry(*ids: Ids, app: op.App = None, output: Output = "table") -> int:
    """Run jobs now that are dead, or that wait for their time."""
    return _each(app, ids, lambda ctx, job: ctx.queue.retry(job), output=output)


def cancel(
    *ids: Ids,
    reason: Annotated[str | None, Parameter(help="Why, for whoever asks later.")] = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Cancel jobs: those that wait at once, those that run at their next await."""
    why = reason or f"by {op.operator()}"
    return _each(app, ids, lambda ctx, job: ctx.queue.cancel(job, reason=why), output=output)


def redrive(
    *ids: Ids,
    queue: op.Queue = None,
    reason: op.Reason = None,
    error: op.ErrorType = None,
    since: op.Since = None,
    until: op.Until = None,
    payload: op.Payload = None,
    rate: Annotated[float | None, Parameter(help="So many a second; without it all at once.")] = None,
    limit: op.Limit = None,
    everything: op.Everything = False,
    yes: op.Yes = False,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Give dead letters new attempts, the oldest first."""
    given = op.dead_filter(queue=queue, reason=reason, error=error, since=since, until=until, payload=payload, ids=ids)
    # who types the ids means them
    op.permit("Redriving dead letters", filter=given, everything=everything, yes=yes or bool(ids))

    async def work(ctx: Ctx) -> int:
        total = await ctx.queue.count_dead(**given)
        with op.progress("redriving", total) as done:
            return await ctx.queue.redrive(rate=rate, limit=limit, everything=everything, on_progress=done, **given)

    redriven = op.ask(app, work, transaction=False)
    return op.told(f"redriven {redriven}", output=output, redriven=redriven)


def _each(app: str | None, ids: tuple[int, ...], deed: Callable[[Ctx, int], Awaitable[str]], *, output: Output) -> int:
    if not ids:
        raise CommandFailed("Name at least one job by its id.", code=USAGE)

    async def work(ctx: Ctx) -> list[tuple[int, str]]:
        answers = list[tuple[int, str]]()
        for id in ids:
            try:
                answers.append((id, await deed(ctx, id)))
            except (errors.NotFound, errors.UsageError) as error:
                answers.append((id, f"! {error}"))
        return answers

    answers = op.ask(app, work, transaction=False)
    if output == "json":
        print(to_json([_answer(id, answer) for id, answer in answers]))
    for id, answer in answers:
        if answer.startswith("! "):
            op.warn(answer.removeprefix("! "))
        elif output != "json":
            print(f"{id} {answer}")
    failed = [answer for _, answer in answers if answer.startswith("! ")]
    if not failed:
        return 0
    return NOT_FOUND if all(answer.startswith("! No ") for answer in failed) else FAILURE


def _answer(id: int, answer: str) -> dict[str, Any]:
    failed = answer.startswith("! ")
    return {"job": id, "outcome": None if failed else answer, "error": answer.removeprefix("! ") if failed else None}


def _record(found: Explanation) -> dict[str, Any]:
    return {
        "job": found.job,
        "queue": found.queue,
        "state": found.state,
        "summary": found.summary,
        "facts": dict(found.facts),
    }


def _status(one: JobStatus) -> dict[str, Any]:
    times = ("enqueued_at", "due_at", "started_at", "finished_at")
    progress = {**asdict(one.progress), "at": one.progress.at.isoformat()} if one.progress else None
    return {**asdict(one), **{name: _iso(getattr(one, name)) for name in times}, "progress": progress}


def _carried(one: JobStatus) -> dict[str, Any]:
    said = {"key": one.key, "result": one.result, "progress": one.progress and one.progress.fraction}
    return {"payload": one.payload, **{name: value for name, value in said.items() if value is not None}}


def _dead(one: DeadJob) -> dict[str, Any]:
    return {**asdict(one), "failed_at": one.failed_at.isoformat(), "enqueued_at": one.enqueued_at.isoformat()}


def _iso(at: Any) -> str | None:
    return None if at is None else at.isoformat()


def _value(value: Any) -> str:
    return value.partition("\n")[0] if isinstance(value, str) else to_json(value)
