"""Turns definitions into what the engine can run: a callable for each queue that takes an attempt.

A handler's own transaction, when it opened one, also carries the completion of its job: both commit, or neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from chimpbase._app.origin import Origin
from chimpbase._app.payload_reading import Reader, is_newer, reader
from chimpbase._app.queue_names import queue_name
from chimpbase._app.registry import Queued
from chimpbase._app.unit import Unit
from chimpbase._core.codec import Codec
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.values import QueueId, QueueSpec
from chimpbase._engine.attempt import Attempt, Handler, Handling, Outcome

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
            run = _handler(backstage, definition, reader(token), definition.transaction)
        case Subscription(event=token):
            subject = f"payload of event {token.name!r}"
            run = _handler(backstage, definition, _read_by(token.codec, subject), definition.transaction)
        case Cron():
            occurrences = OccurrenceReader(definition.payload_codec)
            read = _read_by(occurrences, f"occurrence of {definition.name!r}")
            run = _handler(backstage, definition, read, definition.transaction)
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


def _handler(backstage: Backstage, definition: Definition, read: Reader, transaction: bool) -> Handler:
    title, name, cause = definition.title, definition.name, f"{definition.kind}:{definition.name}"
    db, function, new_trace = backstage.db, definition.function, backstage.new_trace
    is_async = definition.is_async
    results = getattr(definition, "results", None)
    child = cast("Worker[Any, Any]", definition) if getattr(definition, "executor", "") == "process" else None

    # where no version was ever raised there is nothing to compare, for each of all jobs
    worker = cast("Worker[Any, Any]", definition) if isinstance(definition, Worker) else None
    versioned = worker.queue if worker is not None else None

    async def run(attempt: Attempt) -> Outcome:
        if versioned is not None and is_newer(versioned, attempt.job.headers):
            return newer(attempt, versioned)
        payload = read(attempt.job.payload, attempt.job.headers)
        attempt.was_read = True
        origin = Origin(
            title=title,
            name=name,
            cause=cause,
            new_trace=new_trace,
            claimed=attempt.job,
            queue=attempt.queue_name,
        )
        unit = Unit(db, title=title, transaction=transaction)
        ctx = Ctx(backstage, unit.root, origin)
        untouched = False
        try:
            if is_async:
                returned = await function(ctx, payload)
            elif child is not None:
                returned = await run_in_child(backstage.crew, backstage, child, ctx, attempt.job)
            else:
                returned = await in_thread(backstage, function, ctx, (payload,), {})
            outcome: Outcome = returned if isinstance(returned, _OUTCOMES) else None
            if results is not None and returned is not None and outcome is None:
                attempt.result = results.encode(returned, subject=f"result of {title}")
            untouched = unit.end_untouched()
            if not untouched:
                await unit.commit(lambda connection: attempt.settle(connection, outcome))
        finally:
            attempt.settled = unit.committed
            if not (untouched or unit.committed):
                await unit.rollback()
        return outcome

    return run
