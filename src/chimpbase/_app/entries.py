"""Entry: one entry of a stream as a reader gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from chimpbase._app.tokens import Stream
from chimpbase._core.positions import Position, Snapshot
from chimpbase._core.values import StoredEntry

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One entry of a stream. `id` is unique, but not the order of reading; `position` is the place right after it.

    `version` counts the entries of streams whose appends expect versions, from 1; elsewhere it is None.
    """

    stream: str
    id: int
    payload: T
    key: str | None
    version: int | None
    appended_at: datetime
    trace_id: str | None
    _place: Position = field(repr=False, compare=False)

    @property
    def position(self) -> str:
        """An opaque text: a read after it goes on with the next entry, also in another process or after a restore."""
        return str(self._place)


def entries_of(
    stream: Stream[Any], stored: Sequence[StoredEntry], *, window: Position, cur: Snapshot
) -> list[Entry[Any]]:
    """What was read in a window of a stream, decoded.

    Raises: PayloadError when an entry does not fit the stream's type.
    """
    return [entry_of(stream, one, window=window, cur=cur) for one in stored]


def entry_of(stream: Stream[Any], stored: StoredEntry, *, window: Position, cur: Snapshot) -> Entry[Any]:
    """See `entries_of`."""
    return entry_at(stream, stored, place=window.at(cur, stored.id))


def entry_at(stream: Stream[Any], stored: StoredEntry, *, place: Position) -> Entry[Any]:
    """An entry after which a reader stands at a place.

    Raises: PayloadError when it does not fit the stream's type.
    """
    trace = msgspec.json.decode(stored.headers).get("trace") if stored.headers else None
    return Entry(
        stream=stream.name,
        id=stored.id,
        payload=stream.codec.decode(stored.payload, subject=f"entry {stored.id} of stream {stream.name!r}"),
        key=stored.key,
        version=stored.version,
        appended_at=stored.appended_at,
        trace_id=trace if isinstance(trace, str) else None,
        _place=place,
    )
