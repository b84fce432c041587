"""Occurrence: one due time of a schedule, as the handler of a `@cron` receives it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from typing_extensions import TypeVar

T = TypeVar("T", default=Any)
_NOTHING: Any = None


@dataclass(frozen=True, slots=True)
class Occurrence(Generic[T]):
    """`due_at` is the instant it was due (aware, UTC), however late it runs; `schedule` is the schedule's name.

    `payload` is what the schedule was made with. A handler that takes `Occurrence[Customer]` is given it as that type.
    """

    schedule: str
    due_at: datetime
    payload: T = _NOTHING
