"""The clients of ctx: database, queue, pub/sub and key-value. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from chimpbase._app.tokens import Event, Queue
from chimpbase._app.unit import Frame
from chimpbase._core.codec import codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import NotFound, PayloadError, UsageError
from chimpbase._core.names import check_key
from chimpbase._core.values import JobId, NewJob
from chimpbase._store import events, kv

if TYPE_CHECKING:
    from chimpbase._app.definitions import Subscription, Worker
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")
_ANY = codec_for(Any)
_ENDING = ("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare")


class DbClient:
    """The application's own SQL, in the transaction of this call. Parameters are `$1`, `$2`; values are never text."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    @overload
    async def fetch_one(self, sql: str, *args: Any, as_: type[T]) -> T: ...
    @overload
    async def fetch_one(self, sql: str, *args: Any) -> dict[str, Any] | None: ...
    async def fetch_one(self, sql: str, *args: Any, as_: Any = None) -> Any:
        """The first row as a dict, or None. With `as_` the row as that type, and a missing row is an error.

        Raises:
            NotFound: `as_` is given and there is no row; leave it out to get None.
            PayloadError: the row does not fit `as_`.
            DatabaseError: the statement failed.
        """
        async with self._statement(sql) as connection:
            row = await connection.fetch_one(sql, *args)
        if as_ is None:
            return None if row is None else dict(row)
        if row is None:
            raise NotFound(_name(as_), args[0] if len(args) == 1 else args)
        return _into(dict(row), as_)

    @overload
    async def fetch(self, sql: str, *args: Any, as_: type[T]) -> list[T]: ...
    @overload
    async def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]: ...
    async def fetch(self, sql: str, *args: Any, as_: Any = None) -> Any:
        """All rows, as dicts or as `as_`.

        Raises:
            PayloadError: a row does not fit `as_`.
            DatabaseError: the statement failed.
        """
        async with self._statement(sql) as connection:
            rows = [dict(row) for row in await connection.fetch(sql, *args)]
        return rows if as_ is None else [_into(row, as_) for row in rows]

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None when there is no row."""
        async with self._statement(sql) as connection:
            return await connection.fetch_value(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched (0 for one that touches none, such as DDL)."""
        async with self._statement(sql) as connection:
            status = await connection.execute(sql, *args)
        count = status.rsplit(" ", 1)[-1]
        return int(count) if count.isdigit() else 0

    def _statement(self, sql: str) -> Any:
        first = sql.lstrip().split(None, 1)[0].rstrip(";").lower() if sql.strip() else ""
        if first in _ENDING:
            raise UsageError(
                f"`{first}` is not for ctx.db: the transaction belongs to ctx. Return to commit, raise to roll "
                "back, and use `async with ctx.savepoint()` for a part that may fail."
            )
        return self._frame.statement()


class QueueClient:
    """Enqueues jobs in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @overload
    async def enqueue(
        self,
        queue: Queue[T] | Worker[T],
        payload: T,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> JobId: ...
    @overload
    async def enqueue(
        self,
        queue: str,
        payload: Any = None,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> JobId: ...
    async def enqueue(
        self,
        queue: Any,
        payload: Any = None,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> JobId:
        """Enqueue a job: it exists if and only if this transaction commits. Its id.

        `delay` is in seconds if a number; `priority` runs from -100 (first) to 100 (last); `max_attempts` overrides
        the worker's.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: the payload does not fit the queue's type, or cannot be stored. No SQL was sent.
        """
        (id,) = await self._enqueue(queue, [payload], delay, priority, max_attempts)
        return id

    @overload
    async def enqueue_many(
        self,
        queue: Queue[T] | Worker[T],
        payloads: Iterable[T],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> list[JobId]: ...
    @overload
    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> list[JobId]: ...
    async def enqueue_many(
        self,
        queue: Any,
        payloads: Iterable[Any],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> list[JobId]:
        """Enqueue many jobs at once, all or none of them; their ids, in order. The options are those of `enqueue`.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: a payload does not fit; the reason names its place. No SQL was sent.
        """
        return await self._enqueue(queue, payloads, delay, priority, max_attempts)

    async def _enqueue(
        self,
        queue: Any,
        payloads: Iterable[Any],
        delay: timedelta | float | None,
        priority: int,
        max_attempts: int | None,
    ) -> list[JobId]:
        token = self._backstage.registry.queue(queue)
        delay_s = None if delay is None else seconds(delay, subject="delay").total_seconds()
        priority = _whole(priority, "priority", -100, 100)
        limit = None if max_attempts is None else _whole(max_attempts, "max_attempts", 1, 1000)
        texts = list(_encoded(token, payloads, named=isinstance(queue, str)))
        if not texts:
            return []
        id, headers = await self._backstage.queue_id(token, self._frame), self._origin.headers()
        new = [
            NewJob(queue=id, payload=text, delay_s=delay_s, priority=priority, max_attempts=limit, headers=headers)
            for text in texts
        ]
        ids = await self._backstage.enqueue(self._frame, new)
        engine = self._backstage.engine
        self._frame.after_commit.append((lambda: engine.later(delay_s)) if delay_s else (lambda: engine.ready([id])))
        await self._frame.unit.after_statement(self._frame)
        return ids


class PubSubClient:
    """Publishes events in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @overload
    async def publish(self, event: Event[T] | Subscription[T], payload: T) -> int: ...
    @overload
    async def publish(self, event: str, payload: Any = None) -> int: ...
    async def publish(self, event: Any, payload: Any = None) -> int:
        """Publish an event: every subscription of its topic gets it if and only if this transaction commits. Its id.

        Raises:
            NotRegistered: no event of that name.
            PayloadError: the payload does not fit the event's type, or cannot be stored. No SQL was sent.
        """
        token = self._backstage.registry.event(event)
        subject = f"payload of event {token.name!r}"
        text = token.codec.encode(_taken(token.codec, payload, subject, named=isinstance(event, str)), subject=subject)
        async with self._frame.statement() as connection:
            id, queues = await events.publish(
                connection, topic=token.name, payload=text, headers=self._origin.headers()
            )
            self._frame.after_commit.append(lambda: self._backstage.engine.ready(queues))
        return id


class KvClient:
    """Keys and JSON values in the transaction of this call. Keys have 1 to 512 bytes; expired ones are absent."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` when there is none or it has expired.

        Raises:
            PayloadError: the key cannot be one.
        """
        check_key("key", key)
        async with self._frame.statement() as connection:
            text = await kv.get(connection, namespace="", key=key)
        return default if text is None else _ANY.decode(text, subject=f"value of key {key!r}")

    async def set(self, key: str, value: Any, *, ttl: timedelta | float | None = None) -> None:
        """Store a value for `ttl` (seconds if a number) by the database's clock, or for ever. It replaces an old `ttl`.

        Raises:
            PayloadError: the key or the value cannot be stored. No SQL was sent.
        """
        check_key("key", key)
        text = _ANY.encode(value, subject=f"value of key {key!r}")
        lasts = None if ttl is None else seconds(ttl, subject="ttl", minimum=timedelta(milliseconds=1))
        async with self._frame.statement() as connection:
            await kv.set(connection, namespace="", key=key, value=text, ttl=lasts)

    async def delete(self, key: str) -> bool:
        """Remove a key; whether it was there.

        Raises:
            PayloadError: the key cannot be one.
        """
        check_key("key", key)
        async with self._frame.statement() as connection:
            return await kv.delete(connection, namespace="", key=key)


def _taken(codec: Any, payload: Any, subject: str, *, named: bool) -> Any:
    """By name a payload may come as builtins (`{"order_id": 1}`) where the declared type is a class."""
    if named and isinstance(payload, dict | list):
        return codec.convert(payload, subject=subject)
    return payload


def _encoded(token: Queue[Any], payloads: Iterable[Any], *, named: bool) -> Iterator[str]:
    subject = f"payload of queue {token.name!r}"
    for place, payload in enumerate(payloads):
        try:
            yield token.codec.encode(_taken(token.codec, payload, subject, named=named), subject=subject)
        except PayloadError as error:
            if not place:
                raise
            raise PayloadError(f"payload {place}: {error.reason}", path=error.path, subject=subject) from error


def _whole(value: int, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, not {value!r:.40}.")
    return value


def _into(row: dict[str, Any], as_: Any) -> Any:
    try:
        if hasattr(as_, "model_validate"):
            return as_.model_validate(row)
        return msgspec.convert(row, as_)
    except (msgspec.ValidationError, ValueError) as error:
        raise PayloadError(str(error), subject=f"row as {_name(as_)}") from error


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
