"""Where a call comes from: the job behind it, the trace it continues, the name it has in messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The job behind this call. `attempt` counts from 1 and leaves out attempts that were not charged."""

    id: int
    queue: str
    attempt: int
    enqueued_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a ctx belongs to: a title for messages, the trace it continues, the job behind it, its idempotency key."""

    title: str
    name: str
    trace: str
    cause: str
    job: Job | None = None
    idempotency_key: str | None = None

    def headers(self) -> str:
        """What travels with everything this call causes, as JSON text."""
        return msgspec.json.encode({"trace": self.trace, "cause": self.cause}).decode()
