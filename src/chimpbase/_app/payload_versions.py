"""What waits and does not fit any more: the check of a queue's payload type at a start."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import msgspec

from chimpbase._app.definitions import Worker
from chimpbase._app.payload_reading import is_newer, reader
from chimpbase._app.registry import Registry
from chimpbase._app.tokens import Queue
from chimpbase._core.errors import ChimpbaseError, UsageError
from chimpbase._core.values import JobId
from chimpbase._pg.db import Db
from chimpbase._store import queues

_SAMPLE = 500
_BREATH = 50
_log = logging.getLogger("chimpbase.runtime")


def check_upcasts(registry: Registry) -> None:
    """Refuse a chain of upcasts with a gap, now and not when a job meets it. A chain may begin at any version.

    Raises:
        UsageError: there is one.
    """
    queues: list[Queue[Any]] = list(registry.tokens("queue").values())
    for queue in queues:
        first = min(queue.upcasts, default=queue.version)
        missing = [step for step in range(first, queue.version) if step not in queue.upcasts]
        if missing:
            raise UsageError(
                f"{queue!r} has version {queue.version} and an upcast from {first}, but none from {missing[0]}: jobs "
                f"of version {first} could not be read. Add @queue.upcast(from_version={missing[0]})."
            )


def fingerprint(queue: Queue[Any]) -> str:
    """The same text for the same shape of payloads, in every process."""
    text = msgspec.json.encode([queue.version, queue.codec.schema()], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:32]


async def check_waiting(db: Db, registry: Registry) -> None:
    """Where a queue's payload type has changed since the last start, tell how many waiting jobs do not fit it.

    Looks at the oldest and the newest of those that wait; then the new shape is the known one.
    """
    workers: dict[str, Worker[Any, Any]] = {one.name: one for one in registry.queued() if isinstance(one, Worker)}
    async with db.acquire() as connection:
        known = await queues.list_fingerprints(connection, names=list(workers))
    for name, (id, before) in known.items():
        queue: Queue[Any] = workers[name].queue
        now = fingerprint(queue)
        if before == now:
            continue
        async with db.acquire() as connection:
            waiting = [] if before is None else await queues.sample_waiting(connection, queue=id, most=_SAMPLE)
            await queues.set_fingerprint(connection, queue=id, fingerprint=now)
        await _tell(queue, waiting)


async def _tell(queue: Queue[Any], waiting: list[tuple[JobId, str, str | None]]) -> None:
    read, unfit = reader(queue), list[tuple[int, ChimpbaseError]]()
    for place, (id, payload, headers) in enumerate(waiting, 1):
        if place % _BREATH == 0:  # jobs run meanwhile
            await asyncio.sleep(0)
        try:
            if not is_newer(queue, headers):
                read(payload, headers)
        except ChimpbaseError as error:
            unfit.append((id, error))
    if unfit:
        _log.warning(
            "%d of %d waiting jobs of queue %r do not fit %r any more; the first, job %d: %s. Give the queue a new "
            "version=, and the old shape an upcast",
            len(unfit),
            len(waiting),
            queue.name,
            queue,
            *unfit[0],
        )
