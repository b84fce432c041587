"""What `ctx.queue` does with strikes: hold all jobs of a queue whose payload contains something, without a deploy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from chimpbase._app.queue_names import queue_name
from chimpbase._app.queue_operations import by_text, reason_text
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.codec import codec_for
from chimpbase._core.errors import NotFound, NotRegistered, UsageError
from chimpbase._core.views import Strike
from chimpbase._store import queues, strikes

if TYPE_CHECKING:
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

_ANY = codec_for(Any)


class Striking:
    """The part of `QueueClient` for strikes."""

    _backstage: Stage
    _frame: Frame
    _origin: Origin

    async def strike(self, queue: Any, payload: Any, *, reason: str | None = None, by: str | None = None) -> int:
        """Hold every job of a queue whose payload contains this, until `lift_strike`; the strike's id.

        "Contains" is PostgreSQL's `@>`: `{"customer": {"id": 7}}` is in every payload that has it, whatever else there
        is; `{}` is in every object. From the commit on nobody claims one, those enqueued later included; what runs, or
        is about to run in a process that holds it already, goes on.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: `payload` is not JSON.
        """
        text = _ANY.encode(payload, subject="payload")
        who, why = by_text(by) or self._origin.cause, reason_text(reason)
        name = queue_name(queue)
        async with self._frame.statement() as connection:
            ids = await queues.list_ids(connection)
            if name not in ids:
                raise NotRegistered("queue", name, ids)
            id = await strikes.put(connection, queue=ids[name], filter=text, reason=why, by=who)
            self._frame.after_commit.append(self._backstage.engine.look)
        return id

    async def lift_strike(self, strike: int) -> None:
        """Let go of what a strike holds, unless another one holds it, too.

        Raises:
            NotFound: no strike with that id.
        """
        if type(strike) is not int or not 0 < strike < 2**63:
            raise UsageError(f"A strike is given by its id, a whole number from 1, not {strike!r:.60}.")
        async with self._frame.statement() as connection:
            if await strikes.lift(connection, strike=strike) is None:
                raise NotFound("strike", strike)
            self._frame.after_commit.append(self._backstage.engine.look)

    async def list_strikes(self) -> list[Strike]:
        """The strikes in force, the oldest first."""
        async with self._frame.statement() as connection:
            rows = await strikes.list_strikes(connection)
        return [
            Strike(
                id=row.id,
                queue=row.queue,
                payload=msgspec.json.decode(row.filter),
                reason=row.reason,
                created_by=row.created_by,
                created_at=row.created_at,
            )
            for row in rows
        ]


class SyncStriking:
    """The blocking face of `Striking`, whose verbs mean the same."""

    _client: Callable[[], Any]
    _wait: Waiter

    def strike(self, queue: Any, payload: Any, *, reason: str | None = None, by: str | None = None) -> int:
        """See `Striking.strike`."""
        return self._wait(self._client().strike(queue, payload, reason=reason, by=by))

    def lift_strike(self, strike: int) -> None:
        """See `Striking.lift_strike`."""
        self._wait(self._client().lift_strike(strike))

    def list_strikes(self) -> list[Strike]:
        """See `Striking.list_strikes`."""
        return self._wait(self._client().list_strikes())
