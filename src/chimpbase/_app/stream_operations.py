"""What `ctx.stream` does with streams and consumers as a whole: look, rewind, pause, resume."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from chimpbase._app.unit import Frame
from chimpbase._core.errors import NotFound, UsageError
from chimpbase._core.names import check_name
from chimpbase._core.positions import Position, read_position
from chimpbase._store import consumers, streams

if TYPE_CHECKING:
    from chimpbase._app.definitions import Consumer
    from chimpbase._app.stage import Stage


class StreamOperations:
    """Each verb acts in the unit of work."""

    def __init__(self, backstage: Stage, frame: Frame) -> None:
        self._backstage, self._frame = backstage, frame

    async def streams(self) -> list[dict[str, object]]:
        """Every stream of the database: name, retention, max_bytes, version, horizon, last_id, appended_at."""
        async with self._frame.statement() as connection:
            return await streams.list_all(connection)

    async def consumers(self) -> list[dict[str, object]]:
        """Every partition of every consumer of the database: where it is, how far behind, and what stops it."""
        async with self._frame.statement() as connection:
            return await consumers.list_all(connection)

    async def rewind(self, consumer: Consumer[Any] | str, *, to: str | datetime = "beginning") -> None:
        """Send a consumer, with all its partitions, to "beginning", "now", an instant, or a position.

        It happens with this transaction. Whoever is at a batch loses it, and its writes are rolled back.

        Raises:
            NotFound: no consumer of that name has ever been started.
            PayloadError: the position belongs to another stream.
        """
        name = _name_of(consumer)
        if isinstance(to, datetime) and to.tzinfo is None:
            raise UsageError(f"An instant must have a time zone, unlike {to!r:.60}.")
        if not isinstance(cast("object", to), str | datetime):
            raise UsageError(f"A consumer goes to 'beginning', 'now', a datetime or a position, not to {to!r:.60}.")
        async with self._frame.statement() as connection:
            found = await consumers.find(connection, name=check_name("consumer", name))
            if found is None:
                raise NotFound("consumer", name)
            _, _, number, shelf = found
            place = Position(stream=number, since=to if isinstance(to, datetime) else None)
            if to == "now":
                page = await streams.page_back(connection, position=place, shelf=shelf, max_entries=1)
                place = place.past(page.cur, max((one.id for one in page.entries), default=0))
            elif isinstance(to, str) and to != "beginning":
                place = read_position(to, stream=number)
            await consumers.rewind(connection, name=name, position=place)
            self._frame.after_commit.append(lambda: self._backstage.engine.appended([number]))

    async def pause(self, consumer: Consumer[Any] | str) -> None:
        """Let a consumer begin no further batch, in any process, until it is resumed.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        await self._set_paused(consumer, paused=True)

    async def resume(self, consumer: Consumer[Any] | str) -> None:
        """Let a consumer go on, also from an entry that has stopped it.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        await self._set_paused(consumer, paused=False)

    async def lag(self, consumer: Consumer[Any] | str) -> int:
        """How many entries a consumer has still to handle, counted up to 10,001 for each of its partitions.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        name = _name_of(consumer)
        async with self._frame.statement() as connection:
            slots = [cast("int", slot["lag"]) for slot in await consumers.list_all(connection) if slot["name"] == name]
        if not slots:
            raise NotFound("consumer", name)
        return sum(slots)

    async def dead(self, consumer: Consumer[Any] | str, *, after: int = 0, limit: int = 100) -> list[dict[str, object]]:
        """Dead letters of a consumer, with an id above `after`: entry, key, payload (a JSON text), error, times.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        name = _name_of(consumer)
        async with self._frame.statement() as connection:
            if await consumers.find(connection, name=name) is None:
                raise NotFound("consumer", name)
            return await consumers.list_dead(connection, name=name, after=after, most=limit)

    async def redrive(self, consumer: Consumer[Any] | str, *, entries: Sequence[int] | None = None) -> int:
        """Have dead letters of a consumer handled once more, these entries or all; how many.

        Each comes alone, before what the consumer has still to read, with the attempts of its `retry`. It is gone once
        it has been handled, and a dead letter again if that fails. Later entries of its key were handled before it.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        name = _name_of(consumer)
        async with self._frame.statement() as connection:
            found = await consumers.find(connection, name=name)
            if found is None:
                raise NotFound("consumer", name)
            redriven = await consumers.redrive(connection, name=name, entries=entries)
            self._frame.after_commit.append(lambda: self._backstage.engine.appended([found[2]]))
        return redriven

    async def purge(self, consumer: Consumer[Any] | str, *, entries: Sequence[int] | None = None) -> int:
        """Delete dead letters of a consumer, these entries or all; how many.

        Raises: NotFound when no consumer of that name has ever been started.
        """
        name = _name_of(consumer)
        async with self._frame.statement() as connection:
            if await consumers.find(connection, name=name) is None:
                raise NotFound("consumer", name)
            return await consumers.purge(connection, name=name, entries=entries)

    async def _set_paused(self, consumer: Consumer[Any] | str, *, paused: bool) -> None:
        name = _name_of(consumer)
        async with self._frame.statement() as connection:
            if not await consumers.set_paused(connection, name=check_name("consumer", name), paused=paused):
                raise NotFound("consumer", name)


def _name_of(consumer: object) -> str:
    # whatever has the name of a definition; the definition itself would be a circle of imports
    given = consumer if isinstance(consumer, str) else getattr(consumer, "name", consumer)
    return check_name("consumer", cast("str", given))
