"""Foreign SQLAlchemy: sessions and connections, sync and async, over whichever driver their engine has.

Statements go to the driver as they are, past SQLAlchemy's own parameters, whose types it would guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from chimpbase._core.errors import UsageError
from chimpbase._pg.foreign import Answer, answer_of
from chimpbase._pg.foreign_session import following
from chimpbase._pg.foreign_sql import Style, render

_STYLES: Final[Mapping[str, Style]] = MappingProxyType({"numeric_dollar": "native", "pyformat": "named"})


class _SqlAlchemy:
    """`is_session` tells a session from a connection; only the former tells when it has committed."""

    def __init__(self, bound: Any, *, is_session: bool) -> None:
        self._bound, self._is_session = bound, is_session
        self.on_commit: Callable[[Callable[[], None]], None] | None = None
        if is_session:
            session = getattr(bound, "sync_session", bound)
            self.on_commit = lambda callback: following(session).add(callback)

    def check(self) -> None:
        """See `ForeignDriver`; SQLAlchemy opens the caller's transaction with any statement, as with this one."""

    @staticmethod
    def _execution(connection: Any, sql: str, args: Sequence[object]) -> tuple[str, Any, dict[str, bool]]:
        """The arguments of `exec_driver_sql` on the (sync) connection.

        Raises:
            UsageError: it is none to PostgreSQL, or one on which each statement commits.
        """
        dialect = connection.dialect
        style = _STYLES.get(dialect.paramstyle)
        if dialect.name != "postgresql" or style is None:
            raise UsageError(
                f"The bound SQLAlchemy connection is to {dialect.name} over {dialect.driver}; bind one to PostgreSQL "
                "over asyncpg or psycopg."
            )
        if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
            raise UsageError(
                "The bound SQLAlchemy connection has the isolation level AUTOCOMMIT, so there is no transaction to "
                "ride. Bind one without it."
            )
        text, parameters = render(sql, args, style=style)
        # without parameters the driver must not look for any, or a `%` in the statement would be one
        return text, parameters, {} if args else {"no_parameters": True}


class SqlAlchemyDriver(_SqlAlchemy):
    """A ForeignDriver for `Session` and `Connection`."""

    is_sync = True

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`."""
        connection = self._bound.connection() if self._is_session else self._bound
        text, parameters, options = self._execution(connection, sql, args)
        return _answer(connection.exec_driver_sql(text, parameters, execution_options=options))


class AsyncSqlAlchemyDriver(_SqlAlchemy):
    """A ForeignDriver for `AsyncSession` and `AsyncConnection`."""

    is_sync = False

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`."""
        connection = await self._bound.connection() if self._is_session else self._bound
        text, parameters, options = self._execution(connection.sync_connection, sql, args)
        return _answer(await connection.exec_driver_sql(text, parameters, execution_options=options))


def _answer(result: Any) -> Answer:
    if not result.returns_rows:
        return Answer((), (), (), str(max(result.rowcount, 0)))
    # before the rows are fetched: the cursor is gone with the last of them
    cursor = result.cursor
    answer = answer_of(cursor, ())
    return Answer(answer.names, answer.oids, [tuple(row) for row in result.fetchall()], answer.tag)
