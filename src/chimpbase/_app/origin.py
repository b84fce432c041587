"""Where a call comes from: the job behind it, the trace it continues, the name it has in messages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from chimpbase._core.errors import UsageError
from chimpbase._core.text import scrub
from chimpbase._core.values import ClaimedJob


class BatchCount(msgspec.Struct, frozen=True, kw_only=True):
    """How the members of a batch ended."""

    completed: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """How many members there were."""
        return self.completed + self.dead + self.cancelled


class _OwnTerms(msgspec.Struct):
    batch: BatchCount | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The job behind this call. `attempt` counts from 1 and leaves out attempts that were not charged.

    `key` is what it was enqueued with, for limits and order to go by; `batch` counts the batch that it follows.
    """

    id: int
    queue: str
    attempt: int
    enqueued_at: datetime
    key: str | None = None
    batch: BatchCount | None = None


class RunningJob(Job):
    """The job behind this call, while its handler runs."""

    _report: Callable[[float, str | None], Coroutine[Any, Any, None]]

    async def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far this attempt is, from 0 to 1: everybody sees it at once, whatever becomes of the transaction.

        Cheap to call often: of what comes while the last word is being written only the latest is kept. `note` is cut
        off after 500 bytes. `handle.status()` and `ctx.queue.get` tell it.

        Raises:
            UsageError: the fraction is not a number from 0 to 1, or the note not a text.
        """
        await self._report(fraction_of(fraction), note_of(note))

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[Any, ...]]:
        return _plain, (self.id, self.queue, self.attempt, self.enqueued_at, self.key, self.batch)


class SyncRunningJob(Job):
    """The blocking face of `RunningJob`."""

    _report: Callable[[float, str | None], None]

    def progress(self, fraction: float, note: str | None = None) -> None:
        """See `RunningJob.progress`."""
        self._report(fraction, note)

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[Any, ...]]:
        return _plain, (self.id, self.queue, self.attempt, self.enqueued_at, self.key, self.batch)


J = TypeVar("J", RunningJob, SyncRunningJob)


def running(kind: type[J], job: Job, report: Callable[[float, str | None], Any]) -> J:
    """A job that can tell how far it is, through `report`."""
    twin = kind(
        id=job.id, queue=job.queue, attempt=job.attempt, enqueued_at=job.enqueued_at, key=job.key, batch=job.batch
    )
    object.__setattr__(twin, "_report", report)
    return twin


def _plain(id: int, queue: str, attempt: int, enqueued_at: datetime, key: str | None, batch: BatchCount | None) -> Job:
    return Job(id=id, queue=queue, attempt=attempt, enqueued_at=enqueued_at, key=key, batch=batch)


def fraction_of(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UsageError(f"progress is a number from 0 to 1, not {value!r:.40}.")
    return float(value)


def note_of(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"The note of a progress is a text, not {value!r:.40}.")
    return None if value is None else scrub(value, limit_bytes=500)


class Caller(msgspec.Struct, frozen=True, gc=False):
    """What all calls of one handler have in common. `cause` names the call in what it causes.

    A run of a workflow makes one for each step: a struct costs a fifth of a frozen dataclass.
    """

    title: str
    name: str
    cause: str
    new_trace: Callable[[], str]
    queue: str = ""


class Origin:
    """What a ctx belongs to. Made for every call, so nothing in it is worked out before somebody asks.

    `trace` is None to continue the job's, or begin a new one.
    """

    __slots__ = ("_batch", "_caller", "_claimed", "_key", "_topic", "_trace")

    def __init__(
        self,
        *,
        title: str,
        name: str,
        cause: str,
        new_trace: Callable[[], str],
        trace: str | None = None,
        idempotency_key: str | None = None,
        claimed: ClaimedJob | None = None,
        batch: Sequence[ClaimedJob] = (),
        queue: str = "",
        topic: str | None = None,
    ) -> None:
        self._caller = Caller(title, name, cause, new_trace, queue)
        self._trace, self._key = trace, idempotency_key
        self._claimed, self._batch, self._topic = claimed, batch, topic

    @property
    def title(self) -> str:
        """The handler in messages."""
        return self._caller.title

    @property
    def name(self) -> str:
        """The handler's name."""
        return self._caller.name

    @property
    def cause(self) -> str:
        """What the call is named in what it causes."""
        return self._caller.cause

    @property
    def trace(self) -> str:
        """32 hexadecimal digits shared by a request and everything it caused."""
        if self._trace is None:
            headers: dict[str, Any] = {}
            if self._claimed is not None and self._claimed.headers:
                headers = msgspec.json.decode(self._claimed.headers)
            self._trace = str(headers.get("trace") or self._caller.new_trace())
        return self._trace

    @property
    def new_trace(self) -> Callable[[], str]:
        """How a trace is begun."""
        return self._caller.new_trace

    @property
    def topic(self) -> str | None:
        """The topic of the event that is being handled, if one is."""
        if self._topic is None and self._claimed is not None and self._claimed.headers:
            topic = msgspec.json.decode(self._claimed.headers).get("topic")
            return topic if isinstance(topic, str) else None
        return self._topic

    @property
    def job(self) -> Job | None:
        """The job behind this call, if one is."""
        return None if self._claimed is None else self._seen(self._claimed)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs behind this call: one, or those of a batch in the order of their payloads, or none."""
        return tuple(map(self._seen, (self._claimed,) if self._claimed is not None else self._batch))

    def _seen(self, job: ClaimedJob) -> Job:
        batch = msgspec.json.decode(job.terms, type=_OwnTerms).batch if job.terms and '"batch"' in job.terms else None
        return Job(
            id=job.id,
            queue=self._caller.queue,
            attempt=job.charged,
            enqueued_at=job.enqueued_at,
            key=job.key,
            batch=batch,
        )

    @property
    def claimed(self) -> ClaimedJob | None:
        """The job behind this call as it was claimed."""
        return self._claimed

    @property
    def idempotency_key(self) -> str | None:
        """The same text in every attempt of this job or step, and in no other."""
        return self._key or (f"job:{self._claimed.id}" if self._claimed else None)

    def headers(self) -> str:
        """What travels with everything this call causes, as JSON text."""
        cause = f"job:{self._claimed.id}" if self._claimed else self.cause
        return msgspec.json.encode({"trace": self.trace, "cause": cause}).decode()


class JobOrigin(Origin):
    """Where the call of a job's handler comes from. One is made for each job that runs."""

    __slots__ = ()

    def __init__(self, caller: Caller, claimed: ClaimedJob) -> None:
        self._caller, self._claimed = caller, claimed
        self._trace = self._key = self._topic = None
        self._batch = ()
