"""`ctx.stream` of a `SyncCtx`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from chimpbase._app.entries import Entry
from chimpbase._app.stream_client import StreamClient
from chimpbase._app.tokens import Stream
from chimpbase._app.waiter import Waiter

if TYPE_CHECKING:
    from chimpbase._app.definitions import Consumer

T = TypeVar("T")


class SyncStream:
    """The blocking face of `StreamClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], StreamClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    def append(
        self,
        stream: Stream[T] | str,
        payload: T | None = None,
        *,
        key: str | None = None,
        expected_version: int | None = None,
    ) -> int:
        return self._wait(
            self._client().append(cast("Any", stream), payload, key=key, expected_version=expected_version)
        )

    def append_many(
        self,
        stream: Stream[T] | str,
        payloads: Iterable[T],
        *,
        key: str | Callable[[T], str | None] | None = None,
        expected_version: int | None = None,
    ) -> list[int]:
        return self._wait(
            self._client().append_many(cast("Any", stream), payloads, key=key, expected_version=expected_version)
        )

    @overload
    def read(
        self,
        stream: Stream[T],
        *,
        after: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        backward: bool = False,
    ) -> list[Entry[T]]: ...
    @overload
    def read(
        self,
        stream: str,
        *,
        after: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        backward: bool = False,
    ) -> list[Entry[Any]]: ...
    def read(self, stream: Any, **options: Any) -> Any:
        return self._wait(self._client().read(stream, **options))

    def position(self, stream: Stream[Any] | str) -> str | None:
        return self._wait(self._client().position(stream))

    def version(self, stream: Stream[Any] | str) -> int:
        return self._wait(self._client().version(stream))

    def streams(self) -> list[dict[str, object]]:
        return self._wait(self._client().streams())

    def consumers(self) -> list[dict[str, object]]:
        return self._wait(self._client().consumers())

    def rewind(self, consumer: Consumer[Any] | str, *, to: str | datetime = "beginning") -> None:
        self._wait(self._client().rewind(consumer, to=to))

    def pause(self, consumer: Consumer[Any] | str) -> None:
        self._wait(self._client().pause(consumer))

    def resume(self, consumer: Consumer[Any] | str) -> None:
        self._wait(self._client().resume(consumer))

    def lag(self, consumer: Consumer[Any] | str) -> int:
        return self._wait(self._client().lag(consumer))

    def dead(self, consumer: Consumer[Any] | str, *, after: int = 0, limit: int = 100) -> list[dict[str, object]]:
        return self._wait(self._client().dead(consumer, after=after, limit=limit))

    def redrive(self, consumer: Consumer[Any] | str, *, entries: Sequence[int] | None = None) -> int:
        return self._wait(self._client().redrive(consumer, entries=entries))

    def purge(self, consumer: Consumer[Any] | str, *, entries: Sequence[int] | None = None) -> int:
        return self._wait(self._client().purge(consumer, entries=entries))

    def tail(
        self, stream: Stream[T] | str, *, after: str | None = None, since: datetime | None = None
    ) -> Generator[Entry[T]]:
        entries = self._client().tail(cast("Stream[T]", stream), after=after, since=since)
        with suppress(StopAsyncIteration):
            while True:
                yield self._wait(next_entry(entries))


async def next_entry(entries: AsyncGenerator[Entry[T]]) -> Entry[T]:
    """The next of what is followed; StopAsyncIteration at its end."""
    return await anext(entries)
