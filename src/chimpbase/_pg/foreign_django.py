"""Foreign Django: `django.db.connection`, inside `transaction.atomic()`.

Statements go through Django's own cursor, so that its query log, its wrappers and its tests see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chimpbase._core.errors import UsageError
from chimpbase._pg.foreign import Answer, answer_of
from chimpbase._pg.foreign_sql import render


class DjangoDriver:
    """A ForeignDriver for a connection of Django to PostgreSQL, be it through psycopg 3 or psycopg2."""

    is_sync = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.on_commit: Callable[[Callable[[], None]], None] | None = self._on_commit
        if connection.vendor != "postgresql":
            raise UsageError(
                f"The Django connection {connection.alias!r} is to {connection.vendor}; bind one to PostgreSQL."
            )

    def check(self) -> None:
        """See `ForeignDriver`."""
        if not self._connection.in_atomic_block and self._connection.get_autocommit():
            raise UsageError(
                "No transaction is open on the bound Django connection, so there is nothing to ride. Use it inside "
                "`with transaction.atomic():`."
            )

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`."""
        with self._connection.cursor() as cursor:
            cursor.execute(*render(sql, args, style="named"))
            return answer_of(cursor, cursor.fetchall() if cursor.description else ())

    def _on_commit(self, callback: Callable[[], None]) -> None:
        """Django drops the callback together with the savepoint it was set in."""
        self.check()
        if not self._connection.in_atomic_block:
            raise UsageError("ctx.on_commit on a Django connection needs `with transaction.atomic():` around it.")
        self._connection.on_commit(callback)
