"""`ctx.pubsub`: publishes events. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from chimpbase._app.payloads import taken
from chimpbase._app.tokens import Event
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._store import events

if TYPE_CHECKING:
    from chimpbase._app.definitions import Subscription
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")


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
        text = token.codec.encode(taken(token.codec, payload, subject, named=isinstance(event, str)), subject=subject)
        async with self._frame.statement() as connection:
            id, queues = await events.publish(
                connection, topic=token.name, payload=text, headers=self._origin.headers()
            )
            self._frame.after_commit.append(lambda: self._backstage.engine.ready(queues))
        return id


class SyncPubSub:
    """The blocking face of `PubSubClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], PubSubClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def publish(self, event: Event[T] | Subscription[T], payload: T) -> int: ...
    @overload
    def publish(self, event: str, payload: Any = None) -> int: ...
    def publish(self, event: Any, payload: Any = None) -> int:
        return self._wait(self._client().publish(event, payload))
