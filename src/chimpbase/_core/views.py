"""What operators see of queues and jobs at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from chimpbase._core.values import QueueKind


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue and what is in it. `processes` are the live ones that work it; `oldest` is the age of what is ready."""

    name: str
    kind: QueueKind
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    limits: Mapping[str, Any]
    processes: int
    ready: int
    running: int
    later: int
    dead: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job at a glance. `at` is when it began, falls due, or ended; `payload` the beginning of its JSON text."""

    id: int
    queue: str
    state: str
    attempts: int
    priority: int
    enqueued_at: datetime
    at: datetime | None
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """What holds the jobs of a queue whose payload contains `payload`, by whom and why."""

    id: int
    queue: str
    payload: Any
    reason: str | None
    created_by: str | None
    created_at: datetime
