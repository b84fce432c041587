"""Occurrence: one due time of a schedule, as the handler of a `@cron` receives it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Occurrence:
    """`due_at` is the instant it was due (aware, UTC), however late it runs; `schedule` is the schedule's name."""

    schedule: str
    due_at: datetime
