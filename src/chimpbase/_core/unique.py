"""Unique: when two jobs of a queue are the same, and what becomes of the second.

Invariant: a rule is a value; who holds what is in the database, and is judged there when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast, get_args

from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_key

UniqueState = Literal["waiting", "running", "completed", "cancelled", "dead"]
OnConflict = Literal["skip", "replace", "raise"]

_STATES: tuple[UniqueState, ...] = get_args(UniqueState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """At most one job of a queue that is the same, as long as the one before is in one of `states`.

    Jobs are the same when they have the same `key`; or the same values in those `fields` of their payload; or, with
    neither, the same payload. With both a key and fields, all of that together. With a `period` (seconds if a number)
    one stops to count so long after it was enqueued, whatever its state; that is also the way to let a job count whose
    history may be gone by then.

    `on_conflict` says what enqueueing a second one does. `skip`: nothing; the answer is the id of the first. `replace`:
    payload, time, priority and the rest of the first become those of the second, if the first still waits; its attempts
    begin anew. If it runs, a new job is made. `raise`: `AlreadyEnqueued`.

    Where `states` leave out `running`, a first one that was found waiting does not begin before the transaction that
    skipped has ended: so it sees what that one wrote.

    Raises: UsageError, PayloadError.
    """

    key: str | None = None
    fields: tuple[str, ...] = ()
    period: timedelta | None = None
    states: tuple[UniqueState, ...] = ("waiting", "running")
    on_conflict: OnConflict = "skip"

    def __post_init__(self) -> None:
        if self.key is not None:
            check_key("unique key", self.key)
        object.__setattr__(self, "fields", _texts(self.fields, "fields"))
        object.__setattr__(self, "states", _texts(self.states, "states"))
        if self.period is not None:
            shortest = timedelta(milliseconds=1)
            object.__setattr__(self, "period", seconds(self.period, subject="Unique(period=)", minimum=shortest))
        wrong = [state for state in self.states if state not in _STATES]
        if wrong or not self.states:
            raise UsageError(f"Unique(states=) must name some of {', '.join(_STATES)}, not {self.states!r:.100}.")
        if self.on_conflict not in get_args(OnConflict):
            raise UsageError(f"Unique(on_conflict=) must be skip, replace or raise, not {self.on_conflict!r:.40}.")

    @staticmethod
    def throttle(period: timedelta | float, *, key: str | None = None, fields: Iterable[str] = ()) -> Unique:
        """One job a period: the first is taken, the others are skipped, whatever becomes of the first."""
        return Unique(key=key, fields=tuple(fields), period=cast(timedelta, period), states=_STATES)

    @staticmethod
    def debounce(*, key: str | None = None, fields: Iterable[str] = ()) -> Unique:
        """The last one counts: each replaces the one that still waits, so that with `delay=` the time starts anew."""
        return Unique(key=key, fields=tuple(fields), states=("waiting",), on_conflict="replace")

    def stored(self) -> dict[str, object]:
        """The rule as the database takes it."""
        rule: dict[str, object] = {"states": self.states, "on_conflict": self.on_conflict}
        if self.key is not None:
            rule["key"] = self.key
        if self.fields:
            rule["fields"] = self.fields
        if self.period is not None:
            rule["period"] = self.period.total_seconds()
        return rule


def _texts(value: Any, name: str) -> tuple[str, ...]:
    given = tuple(cast("Iterable[object]", value)) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    for item in given:
        if not isinstance(item, str) or isinstance(value, str):
            raise UsageError(f"Unique({name}=) must be a tuple of texts, not {value!r:.60}.")
        if name == "fields":
            check_key("unique field", item)
    return cast("tuple[str, ...]", given)
