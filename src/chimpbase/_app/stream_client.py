"""`ctx.stream`: appends to streams and reads them. Each verb but `tail` acts in the unit of work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from chimpbase._app.entries import Entry, entries_of
from chimpbase._app.payloads import taken
from chimpbase._app.registry import stream_of
from chimpbase._app.stream_operations import StreamOperations
from chimpbase._app.stream_reading import read_window
from chimpbase._app.tokens import Stream
from chimpbase._app.unit import Frame
from chimpbase._core.errors import PayloadError, UsageError, WrongVersion
from chimpbase._core.names import check_key
from chimpbase._core.positions import Position, read_position
from chimpbase._store import streams
from chimpbase._store.streams import NewEntry

if TYPE_CHECKING:
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")
_MOST = 10_000


class StreamClient(StreamOperations):
    """Appends to streams and reads them, in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        super().__init__(backstage, frame)
        self._origin = origin

    @overload
    async def append(
        self, stream: Stream[T], payload: T, *, key: str | None = None, expected_version: int | None = None
    ) -> int: ...
    @overload
    async def append(
        self, stream: str, payload: Any = None, *, key: str | None = None, expected_version: int | None = None
    ) -> int: ...
    async def append(
        self, stream: Any, payload: Any = None, *, key: str | None = None, expected_version: int | None = None
    ) -> int:
        """Append an entry: readers see it if and only if this transaction commits. Its id.

        Consumers handle entries of one `key` (1 to 512 bytes) one after another. `expected_version` is how many entries
        the stream must have: so two who decided on the same state cannot both append. Writers of a stream that is ever
        appended to with one wait for each other.

        Raises:
            WrongVersion: the stream has another version. Nothing was appended, and the transaction goes on.
            PayloadError: the payload does not fit the stream's type, or cannot be stored. No SQL was sent.
        """
        (id,) = await self._append(stream, [payload], lambda _: key, expected_version)
        return id

    @overload
    async def append_many(
        self,
        stream: Stream[T],
        payloads: Iterable[T],
        *,
        key: str | Callable[[T], str | None] | None = None,
        expected_version: int | None = None,
    ) -> list[int]: ...
    @overload
    async def append_many(
        self,
        stream: str,
        payloads: Iterable[Any],
        *,
        key: str | Callable[[Any], str | None] | None = None,
        expected_version: int | None = None,
    ) -> list[int]: ...
    async def append_many(
        self,
        stream: Any,
        payloads: Iterable[Any],
        *,
        key: Any = None,
        expected_version: int | None = None,
    ) -> list[int]:
        """Append many entries, all or none of them, in their order; their ids. `key` may be a function of the payload.

        Raises:
            WrongVersion: as `append`.
            PayloadError: a payload does not fit. No SQL was sent.
        """

        def of(payload: Any) -> str | None:
            return cast("str | None", key(payload) if callable(key) else key)

        if not isinstance(cast("object", payloads), Iterable) or isinstance(payloads, str | bytes):
            raise UsageError(f"payloads must be several payloads, not {payloads!r:.40}. Pass a list.")
        return await self._append(stream, list(payloads), of, expected_version)

    @overload
    async def read(
        self,
        stream: Stream[T],
        *,
        after: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        backward: bool = False,
    ) -> list[Entry[T]]: ...
    @overload
    async def read(
        self,
        stream: str,
        *,
        after: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        backward: bool = False,
    ) -> list[Entry[Any]]: ...
    async def read(
        self,
        stream: Any,
        *,
        after: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        backward: bool = False,
    ) -> list[Entry[Any]]:
        """The next entries after a position (`entry.position`), or the first ones; an empty list at the end.

        Whoever goes on from the last entry's position meets every entry once, whichever commits when. `since` leaves
        out what was appended before an instant, and is remembered by the positions. With `backward` the latest come
        first, by id. Entries that this very transaction appended have no place before it commits, so they are not read.

        Raises:
            EntriesDropped: the stream's retention took entries that had not been read from there.
            PayloadError: `after` is no position of this stream, or an entry does not fit the stream's type.
            UsageError: `since` is given with `after`, or has no time zone; `limit` is not from 1 to 10000.
        """
        token = stream_of(self._backstage.registry, stream)
        start = _checked(after, since, limit)
        async with self._frame.statement() as connection:
            found = await streams.find(connection, name=token.name)
            if found is None:
                return []
            window = Position(stream=found.id, since=start) if after is None else read_position(after, stream=found.id)
            if backward:
                page = await streams.page_back(connection, position=window, shelf=found.shelf, max_entries=limit)
                return entries_of(token, page.entries, window=window, cur=page.cur)
            read, _ = await read_window(connection, token, window, shelf=found.shelf, limit=limit)
        return read

    async def position(self, stream: Stream[Any] | str) -> str | None:
        """The place after everything committed by now; None while the stream has never been declared or appended to."""
        token = stream_of(self._backstage.registry, stream)
        async with self._frame.statement() as connection:
            found = await streams.find(connection, name=token.name)
            if found is None:
                return None
            page = await streams.page_back(
                connection, position=Position(stream=found.id), shelf=found.shelf, max_entries=1
            )
        return str(Position(stream=found.id).past(page.cur, max((one.id for one in page.entries), default=0)))

    async def version(self, stream: Stream[Any] | str) -> int:
        """How many entries the stream has: what the next append may expect."""
        token = stream_of(self._backstage.registry, stream)
        async with self._frame.statement() as connection:
            found = await streams.find(connection, name=token.name)
            if found is None:
                return 0
            if found.version is not None:
                return found.version
            return await streams.count(connection, stream=found.id, shelf=found.shelf)

    @overload
    def tail(
        self, stream: Stream[T], *, after: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Entry[T]]: ...
    @overload
    def tail(
        self, stream: str, *, after: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Entry[Any]]: ...
    def tail(
        self, stream: Any, *, after: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Entry[Any]]:
        """Every entry committed from now on, or after a position or since an instant, as it comes; it never ends.

        It reads outside this transaction, and holds no connection while it waits. An error of the database ends it:
        go on after the last entry's position.

        Raises:
            EntriesDropped, PayloadError, UsageError: as `read`.
        """
        token = stream_of(self._backstage.registry, stream)
        return self._backstage.tail(token, after=after, since=_checked(after, since, 1))

    async def _append(
        self, stream: Any, payloads: list[Any], key: Callable[[Any], str | None], expected: int | None
    ) -> list[int]:
        token = stream_of(self._backstage.registry, stream)
        if expected is not None and (type(expected) is not int or not 0 <= expected < 2**62):
            raise UsageError(f"expected_version must be a whole number from 0, not {expected!r:.40}.")
        subject = f"payload of stream {token.name!r}"
        named = isinstance(stream, str)
        texts = [_encoded(token, payload, subject, place, named=named) for place, payload in enumerate(payloads)]
        keys = [_key(key(payload)) for payload in payloads]
        if not texts:
            return []
        headers, shared = self._origin.headers(), self._backstage.shared
        if shared is not None and len(texts) == 1 and expected is None and not self._frame.unit.transactional:
            return [await shared.append(NewEntry(token.name, texts[0], keys[0], headers))]
        async with self._frame.statement() as connection:
            appended = await streams.append(
                connection, stream=token.name, payloads=texts, keys=keys, headers=headers, expected=expected
            )
            if appended.ids is None:
                raise WrongVersion(token.name, expected=expected or 0, found=appended.found or 0)
            self._frame.after_commit.append(lambda: self._backstage.engine.appended([appended.stream]))
        return list(appended.ids)


def _encoded(token: Stream[Any], payload: Any, subject: str, place: int, *, named: bool) -> str:
    try:
        return token.codec.encode(taken(token.codec, payload, subject, named=named), subject=subject)
    except PayloadError as error:
        if not place:
            raise
        raise PayloadError(f"payload {place}: {error.reason}", path=error.path, subject=subject) from error


def _key(key: str | None) -> str | None:
    return None if key is None else check_key("key of an entry", key)


def _checked(after: str | None, since: datetime | None, limit: int) -> datetime | None:
    if type(limit) is not int or not 1 <= limit <= _MOST:
        raise UsageError(f"limit must be a whole number from 1 to {_MOST}, not {limit!r:.40}.")
    if since is None:
        return None
    if not isinstance(cast("object", since), datetime) or since.tzinfo is None:
        raise UsageError(f"since must be a datetime with a time zone, not {since!r:.60}.")
    if after is not None:
        raise UsageError("A position remembers its own `since`; pass `after` or `since`, not both.")
    return since
