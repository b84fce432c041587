"""What anybody may know of a job: where it is, how often it was tried, what came of it. Values, as once read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.values import DeathReason, JobId
from chimpbase._store.following import FollowedJob, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """How far a job said it was, from 0 to 1, at that time."""

    fraction: float
    note: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """One failed attempt: its number, the class of the error, what it said. 0: it was the process that failed."""

    attempt: int
    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it stood when it was read. `state` is waiting, running, completed, cancelled or dead.

    `due_at` is there while it waits for a time, `reason` says why it is dead. `payload` and `result` are of JSON types.
    `attempts` are those that count. `errors` are the last ten. `progress` is what the handler told last.
    """

    id: int
    queue: str
    state: JobState
    key: str | None
    priority: int | None
    attempts: int
    enqueued_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    payload: Any
    result: Any
    reason: DeathReason | None
    errors: tuple[JobError, ...]
    progress: JobProgress | None

    @property
    def ended(self) -> bool:
        """Whether it is completed, cancelled or dead."""
        return self.state in ("completed", "cancelled", "dead")


def status_of(id: JobId, found: FollowedJob) -> JobStatus:
    """A stored job, with its JSON texts read."""
    progress = None
    if found.fraction is not None and found.at is not None:
        progress = JobProgress(fraction=found.fraction, note=found.note, at=found.at)
    return JobStatus(
        id=int(id),
        queue=found.queue,
        state=found.state,
        key=found.key,
        priority=found.priority,
        attempts=found.attempts,
        enqueued_at=found.enqueued_at,
        due_at=found.due_at,
        started_at=found.started_at,
        finished_at=found.finished_at,
        payload=_read(found.payload),
        result=None if found.result is None else _read(found.result),
        reason=found.reason,
        errors=errors_of(found),
        progress=progress,
    )


def errors_of(found: FollowedJob) -> tuple[JobError, ...]:
    """The history of a job's failures, oldest first."""
    return msgspec.json.decode(found.errors, type=tuple[JobError, ...]) if found.errors else ()


def _read(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # somebody wrote it by hand, and whoever asks what it is should see it
        return text
