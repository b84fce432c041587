"""Foreign asyncpg: a connection of the caller's own pool, with the codecs the caller has set on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chimpbase._core.errors import UsageError
from chimpbase._pg.foreign import JSON_OIDS, Answer
from chimpbase._pg.foreign_sql import json_text


class AsyncpgDriver:
    """A ForeignDriver for `asyncpg.Connection`, or what a pool of them lends."""

    is_sync = False
    on_commit: Callable[[Callable[[], None]], None] | None = None

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._json_as_text: bool | None = None

    def check(self) -> None:
        """See `ForeignDriver`; the driver knows from the server's last answer."""
        if not self._connection.is_in_transaction():
            raise UsageError(
                "No transaction is open on the bound asyncpg connection, so there is nothing to ride. Use it inside "
                "`async with connection.transaction():`."
            )

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """See `ForeignDriver`. The prepared statement is cached as asyncpg caches those of `fetch`."""
        statement = await self._connection._prepare(sql, use_cache=True)  # noqa: SLF001 - `prepare` goes past the cache
        places = [place for place, one in enumerate(statement.get_parameters()) if one.oid in JSON_OIDS]
        values = list(args)
        if places and await self._speaks_text():
            for place in places:
                if place < len(values) and values[place] is not None:
                    values[place] = json_text(values[place])
        rows = await statement.fetch(*values)
        columns = statement.get_attributes()
        return Answer(
            names=[column.name for column in columns],
            oids=[column.type.oid for column in columns],
            rows=[tuple(row) for row in rows],
            tag=statement.get_statusmsg(),
        )

    async def _speaks_text(self) -> bool:
        """Whether json travels as text on this connection, as it does unless the caller has set a codec."""
        if self._json_as_text is None:
            self._json_as_text = await self._connection.fetchval("select '\"1\"'::jsonb") == '"1"'
        return self._json_as_text

