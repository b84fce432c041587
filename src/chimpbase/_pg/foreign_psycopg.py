"""Foreign psycopg: connections of psycopg 3, sync and async, whatever row factory and cursor class they are set to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from chimpbase._core.errors import UsageError
from chimpbase._pg.foreign import Answer, answer_of
from chimpbase._pg.foreign_sql import render

_IDLE: Final = 0  # PQTRANS_IDLE of libpq


class _Psycopg:
    on_commit: Callable[[Callable[[], None]], None] | None = None

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def check(self) -> None:
        """See `ForeignDriver`; without autocommit psycopg itself opens the caller's transaction with any statement."""
        connection = self._connection
        if connection.autocommit and connection.info.transaction_status == _IDLE:
            raise UsageError(
                "The bound psycopg connection is in autocommit mode and no transaction is open, so there is nothing to "
                "ride. Use it inside `with connection.transaction():`."
            )

    def _cursor(self) -> Any:
        return self._connection.cursor(row_factory=_plain_rows)

    @staticmethod
    def _rendered(cursor: Any, sql: str, args: Sequence[object]) -> tuple[str, Any]:
        takes_dollars = any("RawCursor" in cls.__name__ for cls in type(cursor).__mro__)
        return render(sql, args, style="native" if takes_dollars else "named")


class PsycopgDriver(_Psycopg):
    """A ForeignDriver for `psycopg.Connection`."""

    is_sync = True

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`."""
        with self._cursor() as cursor:
            cursor.execute(*self._rendered(cursor, sql, args))
            return answer_of(cursor, cursor.fetchall() if cursor.description else ())


class AsyncPsycopgDriver(_Psycopg):
    """A ForeignDriver for `psycopg.AsyncConnection`."""

    is_sync = False

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`."""
        async with self._cursor() as cursor:
            await cursor.execute(*self._rendered(cursor, sql, args))
            return answer_of(cursor, await cursor.fetchall() if cursor.description else ())


def _plain_rows(cursor: object) -> Callable[[Sequence[Any]], Sequence[Any]]:
    return tuple
