"""Payloads of older and newer shapes: what is read through upcasts, and what is left to a newer process.

A job says in its headers which version of its queue's payload it carries; one that says nothing carries version 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from chimpbase._app.definitions import Worker
from chimpbase._app.registry import Registry
from chimpbase._app.tokens import Queue
from chimpbase._core.errors import ChimpbaseError, PayloadError
from chimpbase._core.text import describe_briefly
from chimpbase._core.values import JobId
from chimpbase._pg.db import Db
from chimpbase._store import queues

#: How long a job of a newer version waits for a process that can read it before it is looked at again.
NEWER_WAITS = timedelta(seconds=10)
_SAMPLE = 500
_log = logging.getLogger("chimpbase.runtime")
#: Reads a payload (a JSON text) with the help of its headers.
Reader = Callable[[str, "str | None"], Any]
_JSON = msgspec.json.Decoder()


def reader(queue: Queue[Any]) -> Reader:
    """What reads the payloads of a queue's jobs, whatever version they are of.

    Raises (the reader): PayloadError, also for whatever an upcast raises.
    """
    subject = f"payload of queue {queue.name!r}"
    if queue.version == 1:
        decode = queue.codec.decode
        return lambda payload, headers: decode(payload, subject=subject)

    def read(payload: str, headers: str | None) -> Any:
        version = version_of(headers)
        if version >= queue.version:
            return queue.codec.decode(payload, subject=subject)
        value = _JSON.decode(payload)
        for step in range(version, queue.version):
            upcast = queue.upcasts.get(step)
            if upcast is None:
                raise PayloadError(f"it is of version {version}, and nothing upcasts from {step}", subject=subject)
            try:
                value = upcast(value)
            except Exception as error:
                raise PayloadError(f"upcast from {step}: {describe_briefly(error)}", subject=subject) from error
        return queue.codec.convert(value, subject=subject)

    return read


def version_of(headers: str | None) -> int:
    """The version of the payload beside these headers (a JSON text)."""
    found = _JSON.decode(headers).get("version") if headers and '"version"' in headers else None
    return found if type(found) is int and found > 0 else 1


def is_newer(queue: Queue[Any], headers: str | None) -> bool:
    """Whether a job with these headers was enqueued by newer code than this, which alone can read it."""
    return version_of(headers) > queue.version


def with_version(headers: str, queue: Queue[Any]) -> str:
    """Headers (a JSON text) that also say of which version the payload is."""
    return headers if queue.version == 1 else f'{headers[:-1]},"version":{queue.version}}}'


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
        _tell(queue, waiting)


def _tell(queue: Queue[Any], waiting: list[tuple[JobId, str, str | None]]) -> None:
    read, unfit = reader(queue), list[tuple[int, ChimpbaseError]]()
    for id, payload, headers in waiting:
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
