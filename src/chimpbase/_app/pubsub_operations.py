"""What `ctx.pubsub` does with events and subscriptions as a whole: look, replay, drop."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from chimpbase._app.stored_event import StoredEvent, stored_event
from chimpbase._app.unit import Frame
from chimpbase._core.errors import NotFound, UsageError, WrongState
from chimpbase._core.names import check_name
from chimpbase._core.numbers import check_whole
from chimpbase._core.topics import check_pattern, regular_expression
from chimpbase._store import events

if TYPE_CHECKING:
    from chimpbase._app.definitions import Subscription
    from chimpbase._app.stage import Stage

_HIGHEST = 2**63 - 1


class PubSubOperations:
    """Each verb acts in the unit of work."""

    def __init__(self, backstage: Stage, frame: Frame) -> None:
        self._backstage, self._frame = backstage, frame

    async def subscriptions(self) -> list[tuple[str, str]]:
        """Every subscription of the database as (name, topic or pattern), whoever declared it."""
        async with self._frame.statement() as connection:
            return await events.list_subscriptions(connection)

    async def topics(self) -> list[dict[str, object]]:
        """The topics of the stored events: topic, events, first_at, last_at. For people: it reads all of them."""
        async with self._frame.statement() as connection:
            return await events.list_topics(connection)

    async def events(
        self, topic: str | None = None, *, above: int = 0, below: int | None = None, limit: int = 100
    ) -> list[StoredEvent]:
        """Stored events, the latest first, of a topic, of a pattern of them, or of all.

        Their ids lie between `above` and `below`, both left out: `below` the last one of a page is the next page.

        Raises:
            UsageError: that is no topic or pattern, `above` or `below` is no id, or `limit` is not from 1 to 10000.
        """
        check_whole(limit, subject="limit", minimum=1, maximum=10_000)
        check_whole(above, subject="above", minimum=0, maximum=_HIGHEST)
        if below is not None:
            check_whole(below, subject="below", minimum=0, maximum=_HIGHEST)
        matcher = None if topic is None else regular_expression(check_pattern(topic))
        async with self._frame.statement() as connection:
            found = await events.list_events(
                connection, matcher=matcher, above=above, below=_HIGHEST if below is None else below, most=limit
            )
        return [stored_event(row) for row in found]

    async def replay(self, subscription: Subscription[Any] | str, *, since: datetime | None = None) -> int:
        """Deliver the stored events of a subscription's topic to it once more, from an instant on; how many.

        They happen with this transaction, to this subscription only. Events are stored for the setting
        `event_retention`.

        Raises:
            NotFound: no such subscription in the database.
            UsageError: `since` has no time zone, or that is no name of a subscription.
        """
        name = _name_of(subscription, "replay")
        if since is not None and (not isinstance(cast("object", since), datetime) or since.tzinfo is None):
            raise UsageError(f"since must be a datetime with a time zone, not {since!r:.60}.")
        async with self._frame.statement() as connection:
            queue = await events.find_queue(connection, name=name)
            if queue is None:
                raise NotFound("subscription", name)
            delivered = await events.replay(connection, subscription=name, since=since)
            self._frame.after_commit.append(lambda: self._backstage.engine.ready([queue]))
        return delivered

    async def drop(self, subscription: Subscription[Any] | str, *, force: bool = False) -> int:
        """Drop a subscription that no code declares any more: it is owed nothing further. How many deliveries went too.

        Those that wait and its dead letters are deleted; one that is being handled ends. Code that declares it makes it
        anew when it starts, so a subscription that a live process works is not dropped without `force`. Publishers wait
        until this transaction has ended.

        Raises:
            NotFound: no such subscription in the database.
            WrongState: a live process works it.
            UsageError: that is no name of a subscription.
        """
        name = _name_of(subscription, "drop")
        async with self._frame.statement() as connection:
            processes = 0 if force else await events.count_workers(connection, name=name)
            if processes:
                raise WrongState(
                    f"Subscription {name!r} is worked by {processes} live process{'es' * (processes > 1)}. Take it out "
                    "of their code first, or force it.",
                    state="worked",
                    wanted="worked by nobody",
                )
            return await events.drop(connection, name=name)


def _name_of(subscription: object, verb: str) -> str:
    given: object = getattr(subscription, "name", subscription)
    if not isinstance(given, str):
        raise UsageError(f"{verb} takes a subscription or its name, not {subscription!r:.60}.")
    return check_name("subscription", given)
