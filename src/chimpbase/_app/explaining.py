"""`ctx.queue.explain`: turns where a job is into one sentence, and the facts behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from chimpbase._app.queue_operations import job_id
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.durations import format_duration
from chimpbase._core.explanation import ExplainedState, Explanation
from chimpbase._core.values import JobId
from chimpbase._pg.db import Queryable
from chimpbase._store import explain, gates
from chimpbase._store.explain import Need, Whereabouts

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage

_SECOND = timedelta(seconds=1)
#: How many of the jobs that one waits for are looked at, and how many are named in its sentence.
_NEEDS, _NAMED = 100, 3
_UNKNOWN = (
    "There is no job {}: it was never enqueued, the transaction that enqueued it has not committed, or it is done and "
    "its history is gone."
)

_NEED = {
    "dead": "dead letter: redrive it, or cancel this job",
    "completed": "completed, which is about to be noticed",
    "cancelled": "cancelled, which is about to be noticed",
    "gone": "done, which is about to be noticed",
}


class Explaining:
    """The part of `QueueClient` that says why."""

    _backstage: Stage
    _frame: Frame

    async def explain(self, job: Any) -> Explanation:
        """Why a job, given by its id or handle, is not running; or that it is, or was. An unknown one is no error."""
        id = job_id(job)
        async with self._frame.statement() as connection:
            return await explain_job(connection, id)


class SyncExplaining:
    """The blocking face of `Explaining`."""

    _client: Callable[[], Any]
    _wait: Waiter

    def explain(self, job: Any) -> Explanation:
        """See `Explaining.explain`."""
        return self._wait(self._client().explain(job))


async def explain_job(connection: Queryable, id: JobId) -> Explanation:
    """See `Explaining.explain`."""
    found = await explain.find(connection, job=id)
    if found is None:
        return Explanation(job=id, queue=None, state="unknown", summary=_UNKNOWN.format(id))
    facts: dict[str, Any] = {"enqueued_at": found.enqueued_at.isoformat(), "attempts": found.attempts}
    if found.strike is not None and found.process is None and found.place not in ("done", "dead"):
        state, why = _held(found, facts)
        return Explanation(
            job=id, queue=found.name, state=state, summary=f"Job {id} of queue {found.name!r} {why}.", facts=facts
        )
    match found.place:
        case "done" | "dead":
            state, why = _ended(found, facts)
        case "later":
            needs = await explain.list_needs(connection, job=id, most=_NEEDS) if found.due_at is None else []
            state, why = _needing(id, needs, facts) if needs else _later(found, facts)
        case "gate":
            state, why = await _at_gate(connection, id, found, facts)
        case "job":
            if found.process is not None:
                state, why = _running(found, facts)
            else:
                state, why = await _ready(connection, found, facts)
    return Explanation(
        job=id, queue=found.name, state=state, summary=f"Job {id} of queue {found.name!r} {why}.", facts=facts
    )


def _held(found: Whereabouts, facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    assert found.strike is not None
    strike = facts["strike"] = msgspec.json.decode(found.strike)
    why = f": {strike['reason']}" if strike["reason"] else ""
    return "held", f"is held by strike {strike['id']} of {strike['by']}{why}"


def _ended(found: Whereabouts, facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    assert found.ended_at is not None  # what has ended did so at some time
    facts["ended_at"] = found.ended_at.isoformat()
    since = f"since {_instant(found.ended_at)}"
    if found.place == "dead":
        facts |= {"reason": found.word, "error_type": found.error_type, "error": found.error}
        said = _first_line(found.error)
        how = f", after {_attempts(found.attempts)}: {said}" if said else f", after {_attempts(found.attempts)}"
        return "dead", f"is dead {since} ({found.word}){how}; `redrive` gives it new attempts"
    if found.word == "cancelled":
        facts["reason"] = found.error
        return "cancelled", f"was cancelled, {since}: {_first_line(found.error) or 'no reason given'}"
    return "done", f"is done {since}, with {_attempts(found.attempts)}"


def _later(found: Whereabouts, facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    if found.run is not None:
        facts["run"] = found.run
    if found.due_at is None:
        if found.run is not None:
            return "waiting", f"waits for a signal to its workflow run {found.run!r}"
        return "waiting", "waits for other jobs to end"
    facts["due_at"] = found.due_at.isoformat()
    if found.due_at <= found.now:
        return "delayed", f"has fallen due at {_instant(found.due_at)} and is about to be made ready{_nobody(found)}"
    when = f"until {_instant(found.due_at)}, in {_span(found.due_at, found.now)}"
    if found.run is not None:
        return "waiting", f"sleeps with its workflow run {found.run!r} {when}"
    if found.error_type is not None:
        facts |= {"error_type": found.error_type, "error": found.error}
        return "retrying", f"waits {when}, because attempt {found.attempts} failed: {_first_line(found.error)}"
    return "delayed", f"is not due {when}"


def _needing(id: JobId, needs: Sequence[Need], facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    others = [need for need in needs if need.job != id]
    total = needs[0].total - (len(needs) - len(others))
    facts |= {"needs": {str(need.job): need.state for need in others}, "needs_total": total}
    parts = [f"job {need.job} ({_NEED.get(need.state, need.state)})" for need in others[:_NAMED]]
    if total > len(parts):
        parts.append("1 other" if total - len(parts) == 1 else f"{total - len(parts)} others")
    if len(others) < len(needs):
        facts["batch_open"] = True
        parts.append("the batch that it follows to be closed")
    return "waiting", "waits for " + " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _running(found: Whereabouts, facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    since = found.claimed_at or found.now
    facts |= {
        "process": found.process,
        "app": found.app,
        "host": found.host,
        "pid": found.pid,
        "since": since.isoformat(),
        "cancel_asked": found.cancel_asked,
    }
    where = f"process {found.process} (app {found.app!r}, pid {found.pid} on {_machine(found.host)})"
    if found.is_lost:
        return "running", f"was running in {where}, which is dead; it is about to be taken over{_nobody(found)}"
    asked = "; it was asked to end" if found.cancel_asked else ""
    return (
        "running",
        f"runs since {_instant(since)}, for {_span(found.now, since)}, attempt {found.attempts}, in {where}{asked}",
    )


async def _ready(connection: Queryable, found: Whereabouts, facts: dict[str, Any]) -> tuple[ExplainedState, str]:
    facts |= {"ahead": found.ahead, "workers": list(found.workers)}
    if paused := _paused(found, facts):
        return "paused", paused
    if not found.workers:
        return "ready", f"is ready, but{_nobody(found).removeprefix(', but')}"
    holder = await explain.find_holder(connection, xid=found.locker) if found.locker not in (None, "0") else None
    if holder is not None:
        facts["locked_by"] = {"pid": holder.pid, "application": holder.application, "state": holder.state}
        return "ready", (
            f"is ready, but a transaction that has been open for {holder.age_s:.1f} s has locked it: pid {holder.pid}, "
            f"application {holder.application!r}, user {holder.user!r}, {holder.state}"
        )
    return "ready", f"is ready and waits for its turn: {_before(found.ahead)}, {_works(found)}"


async def _at_gate(
    connection: Queryable, id: JobId, found: Whereabouts, facts: dict[str, Any]
) -> tuple[ExplainedState, str]:
    facts["workers"] = list(found.workers)
    if paused := _paused(found, facts):
        return "paused", paused
    if not found.workers:
        return "ready", f"is ready, but{_nobody(found).removeprefix(', but')}"
    line = await gates.look_at(connection, job=id)
    if line is None:  # it has moved since
        return "ready", "is on its way out of its queue's gate"
    facts |= {"ahead": line.ahead, "key": line.key, "limits": dict(line.limits), "holders": dict(line.holders)}
    for limit, holders in line.holders.items():
        whose = f" of key {line.key!r}" if line.key is not None and limit != "concurrency" else ""
        value = "" if limit == "ordered" else f" = {line.limits.get(limit)}"
        named = ", ".join(map(str, holders[:10])) + (", ..." if len(holders) > 10 else "")
        return "limited", f"waits for the limit {limit}{value}{whose}, which jobs {named} hold; {_before(line.ahead)}"
    opens = max((at for at in (line.opens_at, line.key_opens_at) if at is not None), default=None)
    if opens is not None:
        facts["opens_at"] = opens.isoformat()
        return "limited", f"waits for the rate of its queue to allow another start, at {_instant(opens)}; " + _before(
            line.ahead
        )
    return "ready", f"is ready and waits for its turn at the gate: {_before(line.ahead)}, {_works(found)}"


def _paused(found: Whereabouts, facts: dict[str, Any]) -> str | None:
    if found.paused_at is None:
        return None
    facts |= {
        "paused_at": found.paused_at.isoformat(),
        "paused_by": found.paused_by,
        "pause_reason": found.pause_reason,
    }
    by = f" by {found.paused_by}" if found.paused_by else ""
    why = f": {found.pause_reason}" if found.pause_reason else ""
    return f"waits because its queue is paused since {_instant(found.paused_at)}{by}{why}"


def _nobody(found: Whereabouts) -> str:
    return "" if found.workers else ", but no live process works its queue"


def _works(found: Whereabouts) -> str:
    return f"its queue is worked by {'process' if len(found.workers) == 1 else 'processes'} " + ", ".join(
        str(one) for one in found.workers[:10]
    )


def _before(ahead: int) -> str:
    if ahead == 0:
        return "it is the next"
    if ahead == 1:
        return "1 job is before it"
    return f"{'at least 10000' if ahead >= 10_000 else ahead} jobs are before it"


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _machine(host: str | None) -> str:
    # behind the name stand its boot and namespace, which tell processes of one machine apart and people nothing
    return repr((host or "?").partition("/")[0])


def _instant(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _span(later: datetime, earlier: datetime) -> str:
    span = max(later - earlier, timedelta(0))
    return format_duration(span if span < _SECOND else span - span % _SECOND)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0][:300]
