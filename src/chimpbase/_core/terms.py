"""Terms: what is asked for one job alone, beside its payload; and how that is written with the job and read again.

Invariant: whatever passed `read_options` can be stored. Exceptions cannot be: a job's own `Retry` brings counts and
times, and which errors are worth another attempt stays the worker's to say. Absent on purpose: the present instant;
`run_at` and `not_after` are compared with the database's clock where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, cast, get_args

import msgspec

from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_key
from chimpbase._core.retry import MAX_ATTEMPTS, Retry
from chimpbase._core.unique import Unique

_LOWEST, _HIGHEST = -100, 100


AfterFailed = Literal["wait", "run", "cancel"]


class EnqueueOptions(TypedDict, total=False):
    """What may be asked for when a job is enqueued. Every option may be None, which is as good as leaving it out.

    `delay`: run it that much later (seconds if a number). `run_at`: not before that instant, which must have a time
    zone. `not_after`: a job that no worker has begun by that instant becomes a dead letter, reason `expired`.
    `priority`: -100 (first) to 100 (last). `key`: what limits and order go by, such as a tenant; 1 to 512 bytes.
    `max_attempts` and `retry` override the worker's; of a `Retry` the counts and times are taken, since classes of
    exceptions cannot be stored with a job.

    `unique`: a text, or a `Unique`: at most one such job at a time; the id may be that of one that is there.
    `idempotency_key`: at most one job of the queue with this key for seven days, whatever becomes of it; the second
    call answers with the id of the first. Of `enqueue_many` each payload has the key and its place.

    `after`: run once all of these jobs (handles or ids) have ended. One that is dead keeps it waiting for a redrive, or
    as `after_failed` says lets it `run` all the same, or has it cancelled too. One that was cancelled counts as ended.
    """

    delay: timedelta | float | None
    run_at: datetime | None
    not_after: datetime | None
    priority: int | None
    key: str | None
    max_attempts: int | None
    retry: Retry | None
    unique: Unique | str | None
    idempotency_key: str | None
    after: Sequence[int] | None
    after_failed: AfterFailed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Options that were read: checked, and in the form in which they are stored.

    `stored` is JSON text, and so is `asked`: what only the database can answer. `fields` are those of the payload that
    it then needs.
    """

    delay: timedelta | None = None
    run_at: datetime | None = None
    priority: int = 0
    key: str | None = None
    max_attempts: int | None = None
    stored: str | None = None
    asked: str | None = None
    fields: tuple[str, ...] = ()


NO_TERMS = Terms()


def read_options(options: Mapping[str, Any]) -> Terms:
    """Check what was asked for.

    Raises:
        UsageError: an option that there is not, that has a wrong value, or that contradicts another one.
        PayloadError: a key that cannot be one.
    """
    unknown = options.keys() - EnqueueOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(EnqueueOptions.__annotations__)
        raise UsageError(f"enqueue has no option {min(unknown)!r}; it has {known}.")
    given = {name: value for name, value in options.items() if value is not None}
    if "delay" in given and "run_at" in given:
        raise UsageError("A job is enqueued with delay= or with run_at=, not with both.")
    if "retry" in given and "max_attempts" in given:
        raise UsageError("A job is enqueued with retry= or with max_attempts=, not with both: a Retry has its own.")
    if "after" in given and given.keys() & {"unique", "idempotency_key"}:
        raise UsageError(
            "A job that comes after others cannot be unique: it might be one that is there and waits for none."
        )
    if "after_failed" in given and "after" not in given:
        raise UsageError("after_failed says what becomes of a job that is enqueued with after=.")
    if "unique" in given and "idempotency_key" in given:
        raise UsageError("A job is enqueued with unique= or with idempotency_key=, not with both.")
    retry, unique = _retry(given.get("retry")), _unique(given.get("unique"))
    attempts = retry.max_attempts if retry else _whole(given.get("max_attempts"), "max_attempts", 1, MAX_ATTEMPTS)
    return Terms(
        delay=seconds(given["delay"], subject="delay") if "delay" in given else None,
        run_at=_instant(given.get("run_at"), "run_at"),
        priority=_whole(given.get("priority"), "priority", _LOWEST, _HIGHEST) or 0,
        key=check_key("key", given["key"]) if "key" in given else None,
        max_attempts=attempts,
        stored=_stored(retry, _instant(given.get("not_after"), "not_after")),
        asked=_asked(unique, given.get("idempotency_key"), _after(given.get("after")), given.get("after_failed")),
        fields=unique.fields if unique else (),
    )


def retry_of(stored: str | None, retry: Retry) -> Retry:
    """The worker's policy `retry`, with what the job's own terms put in its place."""
    if stored is None or '"retry"' not in stored:
        return retry
    try:
        own = msgspec.json.decode(stored)["retry"]
        changes = {name: own[name] for name in ("factor", "jitter") if name in own}
        changes |= {name: timedelta(seconds=own[name]) for name in ("first", "cap") if name in own}
        return replace(retry, **changes)
    except (ValueError, TypeError, KeyError, UsageError):
        # somebody wrote it past the door, and a failure must always lead somewhere
        return retry


def _stored(retry: Retry | None, not_after: datetime | None) -> str | None:
    terms: dict[str, object] = {}
    if not_after is not None:
        terms["not_after"] = not_after.astimezone(UTC).isoformat()
    if retry is not None:
        terms["retry"] = {
            "first": retry.first.total_seconds(),
            "factor": retry.factor,
            "cap": retry.cap.total_seconds(),
            "jitter": retry.jitter,
        }
    return msgspec.json.encode(terms).decode() if terms else None


def _after(value: object) -> list[int] | None:
    if value is None:
        return None
    jobs: list[object] = list(cast("Iterable[object]", value)) if isinstance(value, (list, tuple, set)) else [value]
    for job in jobs:
        if isinstance(job, bool) or not isinstance(job, int) or not 0 < job < 2**63:
            raise UsageError(f"after must be a list of jobs, by handle or id, not {value!r:.60}.")
    return [int(cast(int, job)) for job in jobs]


def _asked(unique: Unique | None, idempotency_key: object, after: list[int] | None, failed: object) -> str | None:
    if failed not in (None, *get_args(AfterFailed)):
        raise UsageError(f"after_failed must be wait, run or cancel, not {failed!r:.40}.")
    if after:
        return msgspec.json.encode({"after": after, "after_failed": failed or "wait"}).decode()
    if idempotency_key is not None:
        key = check_key("idempotency key", cast(str, idempotency_key))
        return msgspec.json.encode({"idempotency_key": key}).decode()
    return msgspec.json.encode({"unique": unique.stored()}).decode() if unique else None


def _unique(value: object) -> Unique | None:
    if value is None or isinstance(value, Unique):
        return value
    if isinstance(value, str):
        return Unique(key=value)
    raise UsageError(f"unique must be a text or a Unique, not {value!r:.60}.")


def _retry(value: object) -> Retry | None:
    if value is not None and not isinstance(value, Retry):
        raise UsageError(f"retry must be a Retry, not {value!r:.60}. Pass Retry(max_attempts=...).")
    if value is not None and (value.retry_on != (Exception,) or value.give_up_on):
        raise UsageError(
            "The Retry of one job cannot name exceptions, since they cannot be stored with it. Give retry_on and "
            "give_up_on to the worker."
        )
    return value


def _instant(value: object, name: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise UsageError(f"{name} must be a datetime with a time zone, not {value!r:.60}.")
    if value.utcoffset() is None:
        raise UsageError(f"{name} has no time zone, so it is no instant. Pass datetime(..., tzinfo=UTC).")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{name} is {value}, which has no counterpart in UTC. Pass an instant of this era.") from None


def _whole(value: object, name: str, low: int, high: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, not {value!r:.40}.")
    return value
