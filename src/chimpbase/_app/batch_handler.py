"""Handlers of batches: several jobs of a queue in one call and one transaction, `@worker(..., batch=500)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from chimpbase._app.backstage import Backstage
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Worker
from chimpbase._app.invoke import in_thread
from chimpbase._app.newer import newer
from chimpbase._app.origin import Origin
from chimpbase._app.payload_reading import is_newer, reader
from chimpbase._app.unit import Unit
from chimpbase._core.errors import AttemptError, UsageError
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._engine.attempt import Attempt, BatchHandler, Outcome, settle

_OUTCOMES = (Snooze, Cancel, DeadLetter)


def batch_handler(backstage: Backstage, definition: Worker[Any, Any]) -> BatchHandler:
    """What runs attempts of this worker together: the outcome of each."""
    title, read, queue = definition.title, reader(definition.queue), definition.queue
    cause = f"{definition.kind}:{definition.name}"

    async def run(attempts: Sequence[Attempt]) -> Sequence[Outcome]:
        payloads: list[Any] = []
        if any(is_newer(queue, attempt.job.headers) for attempt in attempts):
            if len(attempts) == 1:
                return [newer(attempts[0], queue)]
            raise AttemptError("one of these jobs was enqueued by newer code")  # it is found by halving
        for attempt in attempts:
            payloads.append(read(attempt.job.payload, attempt.job.headers))
            attempt.was_read = True
        origin = Origin(
            title=title,
            name=definition.name,
            cause=cause,
            new_trace=backstage.new_trace,
            batch=[attempt.job for attempt in attempts],
            queue=definition.name,
        )
        unit = Unit(backstage.db, title=title, transaction=definition.transaction)
        ctx = Ctx(backstage, unit, origin)
        try:
            if definition.is_async:
                returned = await definition.function(ctx, payloads)
            else:
                returned = await in_thread(backstage, definition.function, ctx, (payloads,), {})
            outcomes = _each(returned, len(attempts), title)
            if unit.end_untouched():
                return outcomes
            await unit.commit(lambda connection: settle(connection, attempts, outcomes))
        except BaseException:
            if not unit.committed:
                await unit.rollback()
            raise
        finally:
            for attempt in attempts:
                attempt.settled = unit.committed
        return outcomes

    return run


def _each(returned: object, count: int, title: str) -> list[Outcome]:
    if returned is None or isinstance(returned, _OUTCOMES):
        return [returned] * count
    if isinstance(returned, list | tuple):
        outcomes = cast("Sequence[object]", returned)
        if len(outcomes) == count and all(one is None or isinstance(one, _OUTCOMES) for one in outcomes):
            return cast("list[Outcome]", list(outcomes))
    raise UsageError(
        f"{title} returned {returned!r:.60}. A batch handler returns None, an outcome for all its jobs, or a list with "
        "one or None for each payload."
    )
