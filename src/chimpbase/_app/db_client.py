"""`ctx.db`: the application's own SQL, in the unit of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import NotFound, PayloadError, UsageError

T = TypeVar("T")
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
            UsageError: `as_` is no type that a row can be.
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
        if not isinstance(sql, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"A statement is a text, not {type(sql).__name__}; values go behind it, for $1, $2.")
        first = sql.lstrip().split(None, 1)[0].rstrip(";").lower() if sql.strip() else ""
        if first in _ENDING:
            raise UsageError(
                f"`{first}` is not for ctx.db: the transaction belongs to ctx. Return to commit, raise to roll "
                "back, and use `async with ctx.savepoint()` for a part that may fail."
            )
        return self._frame.statement()


class SyncDb:
    """The blocking face of `DbClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], DbClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def fetch_one(self, sql: str, *args: Any, as_: type[T]) -> T: ...
    @overload
    def fetch_one(self, sql: str, *args: Any) -> dict[str, Any] | None: ...
    def fetch_one(self, sql: str, *args: Any, as_: Any = None) -> Any:
        return self._wait(self._client().fetch_one(sql, *args, as_=as_))

    @overload
    def fetch(self, sql: str, *args: Any, as_: type[T]) -> list[T]: ...
    @overload
    def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]: ...
    def fetch(self, sql: str, *args: Any, as_: Any = None) -> Any:
        return self._wait(self._client().fetch(sql, *args, as_=as_))

    def fetch_value(self, sql: str, *args: Any) -> Any:
        return self._wait(self._client().fetch_value(sql, *args))

    def execute(self, sql: str, *args: Any) -> int:
        return self._wait(self._client().execute(sql, *args))


def _into(row: dict[str, Any], as_: Any) -> Any:
    try:
        if hasattr(as_, "model_validate"):
            return as_.model_validate(row)
        return msgspec.convert(row, as_)
    except (msgspec.ValidationError, ValueError) as error:
        raise PayloadError(str(error), subject=f"row as {_name(as_)}") from error
    except TypeError as error:
        raise UsageError(f"as_={_name(as_):.80} is no type that a row can be: {error!s:.200}") from error


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
