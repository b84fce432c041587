"""Positions: how far a reader of a stream has come, as an opaque text that outlives processes, dumps and restores.

A reader does not compare ids, since an entry with a lower id may commit later. It compares snapshots: what it has read
is what was visible in `prev`; what it reads now is visible in `cur` and was not in `prev`, in the order of ids.

Source: PgQ (https://wiki.postgresql.org/wiki/PGQ_Tutorial), whose batches are differences of snapshots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from chimpbase._core.errors import PayloadError

_BIGGEST = 2**63 - 1
_SNAPSHOT = r"(?:[0-9]{1,19}:[0-9]{1,19}:(?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)"
_TOKEN = re.compile(
    rf"s1\.([0-9]{{1,10}})\.([0-9]{{0,19}})\.([0-9]{{1,10}}/{_SNAPSHOT})?\.([0-9]{{1,10}}/{_SNAPSHOT})?"
    r"\.([0-9]{1,19})\.([0-9]{1,19})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was committed at one moment, in PostgreSQL's text form, and the epoch in which those numbers mean that."""

    epoch: int
    text: str

    def __str__(self) -> str:
        return f"{self.epoch}/{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in one stream.

    `floor` is the highest id that `prev` showed: what began after `prev` has a higher one. `last` is the last id read
    of the window that ends at `cur`; without `cur` the next read opens one. `since` hides what was appended before.
    """

    stream: int
    since: datetime | None = None
    prev: Snapshot | None = None
    cur: Snapshot | None = None
    floor: int = 0
    last: int = 0

    def __str__(self) -> str:
        since = "" if self.since is None else str((self.since - _EPOCH) // timedelta(microseconds=1))
        return f"s1.{self.stream}.{since}.{self.prev or ''}.{self.cur or ''}.{self.floor}.{self.last}"

    def at(self, cur: Snapshot, last: int) -> Position:
        """After the entry with that id, inside the window that ends at `cur`."""
        return replace(self, cur=cur, last=last)

    def past(self, cur: Snapshot, top: int) -> Position:
        """After all that `cur` shows, of which `top` is the highest id."""
        return replace(self, prev=cur, cur=None, floor=max(self.floor, top), last=0)


def read_position(text: object, *, stream: int) -> Position:
    """The position that `text` is, in the stream of that number.

    Raises: PayloadError.
    """
    if not isinstance(text, str):
        raise PayloadError(f"must be the position of an entry, not {type(text).__name__}", subject="position")
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise PayloadError(f"{text[:40]!a} is no position. Pass one that a read gave", subject="position")
    number, since, prev, cur, floor, last = found.groups()
    if int(number) != stream:
        raise PayloadError("belongs to another stream. Pass one that a read of this stream gave", subject="position")
    if max(int(floor), int(last), int(since or 0)) > _BIGGEST:
        raise PayloadError(f"{text[:40]!a} is no position. Pass one that a read gave", subject="position")
    try:
        began = _EPOCH + timedelta(microseconds=int(since)) if since else None
    except OverflowError:
        raise PayloadError(f"{text[:40]!a} is no position. Pass one that a read gave", subject="position") from None
    return Position(
        stream=stream, since=began, prev=_snapshot(prev), cur=_snapshot(cur), floor=int(floor), last=int(last)
    )


def _snapshot(text: str | None) -> Snapshot | None:
    if not text:
        return None
    epoch, _, body = text.partition("/")
    low, high, running = body.split(":")
    numbers = [int(one) for one in running.split(",") if one]
    ordered = numbers == sorted(set(numbers)) and all(int(low) <= one < int(high) for one in numbers)
    if ordered and int(epoch) < 2**31 and 1 <= int(low) <= int(high) <= _BIGGEST:
        return Snapshot(int(epoch), body)
    raise PayloadError(
        "holds a snapshot that PostgreSQL cannot have given. Pass one that a read gave", subject="position"
    )
