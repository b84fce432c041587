"""Foreign asyncpg: a connection of the caller's own pool, with the codecs the caller has set on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chimpbase._core.errors import Unreachable, UsageError
from chimpbase._pg.foreign import JSON_OIDS, PROBE, Answer, is_text
from chimpbase._pg.foreign_sql import json_text


class AsyncpgDriver:
    """A ForeignDriver for `asyncpg.Connection`, or what a pool of them lends."""

    is_sync = False
    on_commit: Callable[[Callable[[], None]], None] | None = None

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        # what a pool lends is a shell around the connection, and is emptied when the pool takes that back
        self._lent = getattr(connection, "_con", None)
        self._takes_text: dict[int, bool] | None = None

    def check(self) -> None:
        """See `ForeignDriver`; the driver knows from the server's last answer."""
        if self._lent is not None and self._lent.is_closed():
            # a pool takes back one that is lost as soon as the loop hears of it, and then says only that it has
            raise Unreachable("The bound asyncpg connection is gone: it was closed or lost.", sqlstate="08006")
        if not self._connection.is_in_transaction():
            raise UsageError(
                "No transaction is open on the bound asyncpg connection, so there is nothing to ride. Use it inside "
                "`async with connection.transaction():`."
            )

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`. The prepared statement is cached as asyncpg caches those of `fetch`."""
        statement = await self._connection._prepare(sql, use_cache=True)  # noqa: SLF001 - `prepare` goes past the cache
        oids = [parameter.oid for parameter in statement.get_parameters()]
        rows = await statement.fetch(*(await self._encoded(oids, args) if JSON_OIDS & set(oids) else args))
        columns = statement.get_attributes()
        return Answer(
            names=[column.name for column in columns],
            oids=[column.type.oid for column in columns],
            rows=[tuple(row) for row in rows],
            tag=statement.get_statusmsg(),
        )

    async def _encoded(self, oids: Sequence[int], args: Sequence[object]) -> list[object]:
        """JSON travels as text here, too, unless the caller has set a codec for it."""
        if self._takes_text is None:
            self._takes_text = dict(
                zip(sorted(JSON_OIDS), map(is_text, await self._connection.fetchrow(PROBE)), strict=True)
            )
        as_text = [self._takes_text.get(oid, False) for oid in oids] + [False] * len(args)
        return [
            json_text(value) if text and value is not None else value
            for text, value in zip(as_text, args, strict=False)
        ]
