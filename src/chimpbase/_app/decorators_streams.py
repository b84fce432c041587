"""The decorator of consumers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, get_args, get_type_hints, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.decorator_arguments import Keeper, retry_of, timeout_of, token_of
from chimpbase._app.definitions import Consumer, source_of
from chimpbase._app.entries import Entry
from chimpbase._app.sync import SyncCtx
from chimpbase._app.tokens import Stream
from chimpbase._core.errors import UsageError
from chimpbase._core.retry import Retry

T = TypeVar("T")
Start = Literal["beginning", "now"] | datetime
Poison = Literal["dead_letter", "pause"]
ConsumerHandler = Callable[[Ctx, list[Entry[T]]], Coroutine[Any, Any, None]] | Callable[[SyncCtx, list[Entry[T]]], None]


class ConsumerDecorator(Keeper):
    """`consumer`."""

    @overload
    def consumer(
        self,
        stream: Stream[T],
        *,
        name: str | None = ...,
        batch: int = ...,
        partitions: int = ...,
        start: Start = ...,
        retry: Retry | None = ...,
        poison: Poison = ...,
        timeout: timedelta | float | None = ...,
    ) -> Callable[[ConsumerHandler[T]], Consumer[T]]: ...
    @overload
    def consumer(
        self,
        stream: str,
        *,
        name: str | None = ...,
        batch: int = ...,
        partitions: int = ...,
        start: Start = ...,
        retry: Retry | None = ...,
        poison: Poison = ...,
        timeout: timedelta | float | None = ...,
    ) -> Callable[[ConsumerHandler[Any]], Consumer[Any]]: ...
    def consumer(
        self,
        stream: Stream[Any] | str,
        *,
        name: str | None = None,
        batch: int = 100,
        partitions: int = 1,
        start: Start = "beginning",
        retry: Retry | None = None,
        poison: Poison = "dead_letter",
        timeout: timedelta | float | None = None,
    ) -> Callable[[ConsumerHandler[Any]], Consumer[Any]]:
        """Define a consumer: what is done about the entries of a stream, up to `batch` of them in one transaction.

        How far it has come commits with what the handler writes, so each entry takes effect exactly once. `name` is
        durable; it defaults to the function's. `partitions` of the entries, by their keys, are consumed beside each
        other, in all processes together; each key in its order. It is fixed when the consumer is first started, like
        `start`. A batch that fails is tried again in halves until the entry to blame is alone; that one is tried as
        `retry` says, and then becomes a dead letter of the consumer, or with `poison="pause"` stops its partition.
        `timeout` is for one batch, in seconds if a number.

        Example:
            >>> @consumer("audit", batch=500)
            ... async def index(ctx: Ctx, entries: list[Entry[dict]]) -> None: ...
            >>> index.stream.name
            'audit'
        """

        def decorate(function: Callable[..., Any]) -> Consumer[Any]:
            token = token_of(stream, Stream, lambda name: Stream(name, _payload_type(function)), subject="stream")
            return self._keep(
                Consumer(
                    name=name or function.__name__,
                    function=function,
                    stream=token,
                    batch=_whole(batch, "batch", 10_000),
                    partitions=_whole(partitions, "partitions", 1024),
                    start=_start(start),
                    retry=retry_of(retry),
                    poison=_poison(poison),
                    timeout=timeout_of(timeout),
                )
            )

        return decorate


def _payload_type(function: Callable[..., Any]) -> Any:
    """The T of a handler that takes `list[Entry[T]]`."""
    try:
        hints = [hint for name, hint in get_type_hints(function).items() if name != "return"]
    except NameError as error:
        raise UsageError(f"{function.__name__}: {error} in its annotations ({source_of(function)}).") from None
    entries = get_args(hints[1]) if len(hints) > 1 else ()
    inside = get_args(entries[0]) if entries else ()
    return inside[0] if inside else Any


def _whole(value: int, name: str, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{name} must be a whole number from 1 to {most}, not {value!r:.40}.")
    return value


def _start(start: Any) -> Start:
    if start in ("beginning", "now") or (isinstance(start, datetime) and start.tzinfo is not None):
        return start
    raise UsageError(f"start must be 'beginning', 'now' or a datetime with a time zone, not {start!r:.60}.")


def _poison(poison: Any) -> Poison:
    if poison in ("dead_letter", "pause"):
        return poison
    raise UsageError(f"poison must be 'dead_letter' or 'pause', not {poison!r:.40}.")
