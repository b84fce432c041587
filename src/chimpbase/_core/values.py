"""Rows as frozen values, and the words for their states. No behaviour beyond what a row says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, NewType

import msgspec

JobId = NewType("JobId", int)
ProcessId = NewType("ProcessId", int)
QueueId = NewType("QueueId", int)

QueueKind = Literal["job", "delivery", "occurrence", "activation"]
RunState = Literal["running", "sleeping", "waiting", "paused", "completed", "failed", "cancelled", "blocked"]
StepKind = Literal["step", "retry", "sleep", "wait", "child", "callback", "update", "patch", "emit", "cancelled"]
OnParentClose = Literal["cancel", "abandon"]
OnConflict = Literal["fail", "use_existing", "replace"]
Misfire = Literal["skip", "last", "all"]
Overlap = Literal["allow", "skip", "queue", "cancel_previous"]
OccurrenceState = Literal["fired", "waiting", "skipped"]
DeathReason = Literal["exhausted", "hopeless", "crashed", "rejected", "unreadable", "expired"]

#: Prefixes of the queues the runtime makes for itself; a user's queue may not begin with one.
INTERNAL_QUEUES: Mapping[QueueKind, str] = {
    "delivery": "subscription:",
    "occurrence": "cron:",
    "activation": "workflow:",
}

#: How long finished jobs are kept, if nothing else was said.
DAY = timedelta(days=1)

#: Where a run can rest for good.
ENDED_STATES: frozenset[RunState] = frozenset({"completed", "failed", "cancelled", "blocked"})


class NewJob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job about to be stored. `payload`, `headers` and `terms` are JSON texts.

    It is due at `run_at`, else after `delay`; with neither, or when that has passed, it is ready at once. `asked`, JSON
    text too, is what depends on what is there already: whether it is unique.
    """

    queue: QueueId
    payload: str
    delay: timedelta | None = None
    run_at: datetime | None = None
    priority: int = 0
    max_attempts: int | None = None
    headers: str | None = None
    key: str | None = None
    terms: str | None = None
    asked: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it is ready at once and runs like any other."""
        return self.delay is None and self.run_at is None and self.terms is None


class CarriedJob(NamedTuple):
    """A job to be stored together with the end of the one whose handler enqueued it, under an id drawn before."""

    id: JobId
    new: NewJob
    since_s: float  # when it was enqueued, on the monotonic clock

    def delay_left(self, now_s: float) -> timedelta | None:
        """What is left of its delay, which counts from when it was enqueued."""
        delay = self.new.delay
        return None if delay is None else max(timedelta(0), delay - timedelta(seconds=now_s - self.since_s))


class ClaimedJob(msgspec.Struct, frozen=True, gc=False):
    """A job leased to this process. (`id`, `attempt`) with the process is the fence of every later write.

    A `suspect` is one crash of its process away from the dead letters. `key` is what limits and order go by; `terms` is
    what the enqueuer asked for this job alone, as JSON text; with `expired` its deadline passed before the claim. The
    fields stand in the order of the claim's
    columns. One is made for each job that runs: a struct costs a tenth of a frozen dataclass.
    """

    id: JobId
    queue: QueueId
    priority: int
    sort: int
    attempt: int
    uncharged: int
    suspect: bool
    max_attempts: int | None
    enqueued_at: datetime
    payload: str
    headers: str | None
    key: str | None
    terms: str | None
    expired: bool = False

    @property
    def charged(self) -> int:
        """Attempts that count against the limit, this one included; 1 on the first try."""
        return self.attempt - self.uncharged


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """What a process knows about a queue it declares. None leaves what the database has of it as it is.

    `limits` are as `Limits.stored` gives them: none at all is a word, too. `retention` is for finished jobs; None keeps
    none, and without `max_attempts` it changes nothing of a queue that is there.
    """

    name: str
    kind: QueueKind
    max_attempts: int | None
    limits: Mapping[str, object] | None = None
    retention: timedelta | None = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSpec:
    """`matcher` is a pattern's regular expression, `conditions` JSON text, `since` what a new one is to be sent."""

    name: str
    topic: str
    queue: QueueId
    matcher: str | None = None
    conditions: str | None = None
    key_path: Sequence[str] | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTerms:
    """What a schedule is made of, whoever makes it. `payload` is JSON text."""

    name: str
    expression: str
    tz: str
    misfire: Misfire
    max_missed: int
    overlap: Overlap
    jitter: timedelta
    payload: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec(ScheduleTerms):
    """A schedule that code declares."""

    queue: QueueId
    next_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule(ScheduleTerms):
    """A schedule as it stands, with the name of its queue; `now` is the database's clock."""

    queue: str
    declared: bool
    paused_at: datetime | None
    next_at: datetime
    last_at: datetime | None
    now: datetime


class DueSchedule(msgspec.Struct, frozen=True, gc=False):
    """A schedule whose `next_at` has passed, locked by this transaction; `now` is the database's clock.

    `last_at` is the instant that was fired last and `last_job` its job; `waiting` tells that occurrences wait for that.
    """

    name: str
    expression: str
    tz: str
    misfire: Misfire
    max_missed: int
    overlap: Overlap
    jitter: timedelta
    next_at: datetime
    waiting: bool
    last_at: datetime | None
    last_job: JobId | None
    now: datetime


class StepMemo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of a run's journal. A step has `result` or `error`; a wait that timed out has neither.

    `digest` is a hash of the arguments; `detail` the arguments themselves when they are short, and for a wait the name
    of what ended it. One is made for each step that runs: a struct costs a tenth of a frozen dataclass.
    """

    key: str
    seq: int
    kind: StepKind
    attempt: int = 1
    digest: int | None = None
    started_at: datetime
    finished_at: datetime
    detail: str | None = None
    result: str | None = None
    error: str | None = None


_MEMO = StepMemo.__struct_fields__


class LoadedRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run as its activation finds it: its identity, its input and the whole journal, read in one statement."""

    number: int
    id: str
    workflow: str
    version: int
    input: str
    started_at: datetime
    now: datetime
    headers: str | None
    seed: str = ""
    round: int = 1
    parent: int | None = None
    code: str | None = None
    cancel_reason: str | None = None
    paused: bool = False
    steps: Mapping[str, StepMemo] = msgspec.field(default_factory=dict[str, StepMemo])

    @classmethod
    def from_row(cls, row: Any) -> LoadedRun:
        """A row of a run, with its steps as rows in `steps`."""
        names = [name for name in cls.__struct_fields__ if name != "steps"]
        steps = {step["key"]: StepMemo(**{name: step[name] for name in _MEMO}) for step in row["steps"]}
        return cls(**{name: row[name] for name in names}, steps=steps)


class NewRun(msgspec.Struct, frozen=True, gc=False):
    """A run about to be started, ready at once. `input`, `headers` and `attributes` are JSON texts."""

    workflow: str
    version: int
    queue: QueueId
    id: str
    input: str
    headers: str | None
    priority: int = 0
    key: str | None = None
    attributes: str | None = None


class RunEnd(msgspec.Struct, frozen=True, gc=False):
    """What those who wait for a run need of it. `output` is JSON text, present when completed, `error` when not."""

    id: str
    workflow: str
    version: int
    state: RunState
    output: str | None
    error: str | None

    @property
    def over(self) -> bool:
        """Whether nothing comes of it any more, at least until somebody mends it."""
        return self.state in ("completed", "failed", "cancelled", "blocked")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What anybody may ask of a run. `output` is JSON text, present when completed; `error` when it did not go well.

    `view` is what its code last showed as its state; `capable` how many live processes can run it.
    """

    id: str
    workflow: str
    version: int
    state: RunState
    waits: tuple[str, ...]
    wake_at: datetime | None
    started_at: datetime
    finished_at: datetime | None
    input: str
    output: str | None
    error: str | None
    view: str | None = None
    attributes: str | None = None
    parent: str | None = None
    round: int = 1
    cancel_reason: str | None = None
    capable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStream:
    """A stream as a reader needs it. `horizon` is the highest id ever dropped; `version` is None where none counts."""

    id: int
    shelf: int
    horizon: int
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An entry as it is stored; `payload` and `headers` are JSON texts."""

    id: int
    version: int | None
    key: str | None
    payload: str
    appended_at: datetime
    headers: str | None
