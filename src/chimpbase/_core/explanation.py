"""Explanation: the answer to "why is this job not running?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ExplainedState = Literal[
    "ready",
    "paused",
    "limited",
    "delayed",
    "retrying",
    "waiting",
    "held",
    "running",
    "done",
    "cancelled",
    "dead",
    "unknown",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a job is and why. `summary` is one sentence for people; `facts` are what it says, by name, of JSON types.

    "ready" waits for nothing but its turn or a process, "paused" for its queue, "limited" for a limit of it, "delayed"
    and "retrying" for a time, "waiting" for other jobs or a signal, "held" for a strike to be lifted.
    """

    job: int
    queue: str | None
    state: ExplainedState
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return self.summary
