"""Turns definitions into what the engine can run: a callable for each queue that takes an attempt.

A handler's own transaction, when it opened one, also carries the completion of its job: both commit, or neither.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from chimpbase._app.activations import ACTIVATION_RETRY, activation
from chimpbase._app.backstage import Backstage
from chimpbase._app.batch_handler import batch_handler
from chimpbase._app.crew import run_in_child
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Cron, Definition, Subscription, Worker, Workflow
from chimpbase._app.invoke import in_thread
from chimpbase._app.newer import newer
from chimpbase._app.occurrence_reader import OccurrenceReader
from chimpbase._app.origin import Caller, JobOrigin
from chimpbase._app.payload_reading import Reader, is_newer, reader
from chimpbase._app.queue_names import queue_name
from chimpbase._app.registry import Queued
from chimpbase._app.unit import Unit
from chimpbase._core.codec import Codec
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.values import QueueId, QueueSpec
from chimpbase._engine.attempt import Attempt, Carried, Handler, Handling, Outcome, lost_lease

_OUTCOMES = (Snooze, Cancel, DeadLetter)


def queue_spec(definition: Queued) -> QueueSpec:
    """The queue behind a definition."""
    name = queue_name(definition)
    match definition:
        case Worker():
            return QueueSpec(
                name=name,
                kind="job",
                max_attempts=definition.retry.max_attempts,
                limits=_limits(definition),
                retention=definition.retention,
            )
        case Subscription():
            return QueueSpec(
                name=name, kind="delivery", max_attempts=definition.retry.max_attempts, limits=_limits(definition)
            )
        case Cron():
            return QueueSpec(name=name, kind="occurrence", max_attempts=definition.retry.max_attempts)
        case Workflow():
            return QueueSpec(
                name=name, kind="activation", max_attempts=ACTIVATION_RETRY.max_attempts, limits=_limits(definition)
            )


def _limits(definition: Worker[Any, Any] | Subscription[Any] | Workflow[Any, Any]) -> Mapping[str, object]:
    return definition.limits.stored() if definition.limits else {}


def handling(backstage: Backstage, definition: Queued, queue: QueueId, *, concurrency: int) -> Handling:
    """How this process works the queue of a definition."""
    spec = queue_spec(definition)
    match definition:
        case Worker(batch=batch) if batch > 1:
            return _batches(backstage, definition, queue, concurrency=concurrency)
        case Worker(queue=token):
            run = _handler(backstage, definition, spec.name, reader(token), definition.transaction)
        case Subscription(event=token):
            subject = f"payload of event {token.name!r}"
            run = _handler(backstage, definition, spec.name, _read_by(token.codec, subject), definition.transaction)
        case Cron():
            occurrences = OccurrenceReader(definition.payload_codec)
            read = _read_by(occurrences, f"occurrence of {definition.name!r}")
            run = _handler(backstage, definition, spec.name, read, definition.transaction)
        case Workflow():
            run = activation(backstage, definition)
            return Handling(
                queue=queue,
                name=spec.name,
                kind=spec.kind,
                run=run,
                slots=definition.concurrency,
                retry=ACTIVATION_RETRY,
            )
    if isinstance(definition, Worker) and definition.executor == "process":
        concurrency = os.cpu_count() or 1
    slots = concurrency if isinstance(definition, Cron) else definition.concurrency or concurrency
    return Handling(
        queue=queue,
        name=spec.name,
        kind=spec.kind,
        run=run,
        slots=slots,
        retry=definition.retry,
        timeout=definition.timeout,
    )


def _batches(backstage: Backstage, definition: Worker[Any, Any], queue: QueueId, *, concurrency: int) -> Handling:
    run_batch = batch_handler(backstage, definition)

    async def run(attempt: Attempt) -> Outcome:
        (outcome,) = await run_batch([attempt])
        return outcome

    return Handling(
        queue=queue,
        name=definition.name,
        kind="job",
        run=run,
        slots=definition.concurrency or concurrency,
        retry=definition.retry,
        timeout=definition.timeout,
        batch=definition.batch,
        run_batch=run_batch,
    )


def _read_by(codec: Codec[Any] | OccurrenceReader, subject: str) -> Reader:
    decode = codec.decode
    return lambda payload, headers: decode(payload, subject=subject)


def _handler(backstage: Backstage, definition: Definition, queue_name: str, read: Reader, transaction: bool) -> Handler:
    title, db = definition.title, backstage.db
    caller = Caller(title, definition.name, f"{definition.kind}:{definition.name}", backstage.new_trace, queue_name)
    call = _call(backstage, definition)
    child = cast("Worker[Any, Any]", definition) if getattr(definition, "executor", "") == "process" else None
    results = getattr(definition, "results", None)
    versioned = cast("Worker[Any, Any]", definition).queue if isinstance(definition, Worker) else None

    async def run(attempt: Attempt) -> Outcome:
        job = attempt.job
        if job.headers is not None and versioned is not None and is_newer(versioned, job.headers):
            return newer(attempt, versioned)
        payload = read(job.payload, job.headers)
        attempt.was_read = True
        unit = Unit(db, title=title, transaction=transaction, carries=True)
        ctx = Ctx(backstage, unit, JobOrigin(caller, job))
        try:
            if child is None:
                returned = await call(ctx, payload)
            else:
                returned = await run_in_child(backstage.crew, backstage, child, ctx, attempt)
            outcome: Outcome = None
            if returned is not None:
                if isinstance(returned, _OUTCOMES):
                    outcome = returned
                elif results is not None:
                    attempt.result = results.encode(returned, subject=f"result of {title}")
            if unit.end_untouched():
                return outcome
            if outcome is None and (luggage := unit.end_carrying()) is not None:
                attempt.carried = Carried(luggage.jobs, luggage.after_commit)
                return outcome
            if (closing := attempt.closing(outcome)) is not None:
                await unit.commit(last=closing)
            else:
                await unit.commit(lambda connection: attempt.settle(connection, outcome))
        except BaseException as error:
            attempt.settled = unit.committed
            if not unit.committed:
                await unit.rollback()
            if (lost := lost_lease(attempt, error)) is not None:
                raise lost from error
            raise
        attempt.settled = unit.committed
        return outcome

    return run


def _call(backstage: Backstage, definition: Definition) -> Callable[[Ctx, Any], Awaitable[Any]]:
    """What runs the function of a definition here: where it is, or in a thread."""
    function = definition.function
    if definition.is_async:
        return function

    async def threaded(ctx: Ctx, payload: Any) -> Any:
        return await in_thread(backstage, function, ctx, (payload,), {})

    return threaded
