"""Where a call comes from: the job behind it, the trace it continues, the name it has in messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.values import ClaimedJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The job behind this call. `attempt` counts from 1 and leaves out attempts that were not charged.

    `key` is what it was enqueued with, for limits and order to go by.
    """

    id: int
    queue: str
    attempt: int
    enqueued_at: datetime
    key: str | None = None


class Origin:
    """What a ctx belongs to. Made for every call, so nothing in it is worked out before somebody asks.

    `cause` names the call in what it causes; `trace` is None to continue the job's, or begin a new one.
    """

    __slots__ = ("_claimed", "_key", "_new_trace", "_queue", "_trace", "cause", "name", "title")

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
        queue: str = "",
    ) -> None:
        self.title, self.name, self.cause = title, name, cause
        self._new_trace, self._trace, self._key = new_trace, trace, idempotency_key
        self._claimed, self._queue = claimed, queue

    @property
    def trace(self) -> str:
        """32 hexadecimal digits shared by a request and everything it caused."""
        if self._trace is None:
            headers: dict[str, Any] = {}
            if self._claimed is not None and self._claimed.headers:
                headers = msgspec.json.decode(self._claimed.headers)
            self._trace = str(headers.get("trace") or self._new_trace())
        return self._trace

    @property
    def job(self) -> Job | None:
        """The job behind this call, if one is."""
        job = self._claimed
        if job is None:
            return None
        return Job(id=job.id, queue=self._queue, attempt=job.charged, enqueued_at=job.enqueued_at, key=job.key)

    @property
    def idempotency_key(self) -> str | None:
        """The same text in every attempt of this job or step, and in no other."""
        return self._key or (f"job:{self._claimed.id}" if self._claimed else None)

    def headers(self) -> str:
        """What travels with everything this call causes, as JSON text."""
        cause = f"job:{self._claimed.id}" if self._claimed else self.cause
        return msgspec.json.encode({"trace": self.trace, "cause": cause}).decode()
