"""DeadJob: a job that nobody will run again by himself, as operators and the workers of dead letters see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chimpbase._core.values import DeathReason


@dataclass(frozen=True, kw_only=True)
class DeadJob:
    """A dead letter. `payload` is of JSON types; `attempts` are those that counted.

    `error_type` and `error` are those of the last attempt: the name of the exception, and what it said. `reason` is
    "exhausted" (no attempt was left), "hopeless" (the error is one that is not retried), "crashed" (its process died),
    "rejected" (the handler said `DeadLetter`) or "unreadable" (the payload does not fit its type).

    What `ctx.queue.dead` lists, and the payload of a worker of dead letters: `@worker("mail.send.dead")` gets one for
    each job of `mail.send` that dies.
    """

    job: int
    queue: str
    payload: Any
    reason: DeathReason
    error_type: str | None
    error: str | None
    attempts: int
    failed_at: datetime
    enqueued_at: datetime
