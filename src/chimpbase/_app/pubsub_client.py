"""`ctx.pubsub`: publishes events, and broadcasts. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from chimpbase._app.inline import inline_call, inline_subscriptions
from chimpbase._app.payloads import taken
from chimpbase._app.pubsub_operations import PubSubOperations
from chimpbase._app.stored_event import StoredEvent
from chimpbase._app.tokens import Event
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import UsageError
from chimpbase._store import broadcasts, events
from chimpbase._store.events import NewEvent

if TYPE_CHECKING:
    from chimpbase._app.definitions import OnBroadcast, Subscription
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")
#: Calls the handler of an inline subscription with a ctx of its own; given by whoever makes them.
RunInline = Callable[["Stage", Frame, "Origin", "Subscription[Any]", Any], Awaitable[None]]


class PubSubClient(PubSubOperations):
    """Publishes events in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin, run_inline: RunInline) -> None:
        super().__init__(backstage, frame)
        self._origin, self._run_inline = origin, run_inline

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
        inline = inline_subscriptions(self._backstage.registry, token.name, text)
        if inline and not self._frame.unit.transactional:
            # alone there is no transaction of the publisher's to run them in: this is it
            async with self._backstage.unit(self._origin.title) as unit:
                return await self._store(unit.root, token, text, inline)
        return await self._store(self._frame, token, text, inline)

    @overload
    async def broadcast(self, event: Event[T] | OnBroadcast[T], payload: T) -> None: ...
    @overload
    async def broadcast(self, event: str, payload: Any = None) -> None: ...
    async def broadcast(self, event: Any, payload: Any = None) -> None:
        """Tell every live process, this one too, once this transaction has committed: the handlers of `on_broadcast`.

        Nothing is kept for who is not there, and no subscription gets it: what must happen is published. A payload may
        be as large as any other.

        Raises:
            NotRegistered: no event of that name.
            PayloadError: the payload does not fit the event's type, or cannot be stored. No SQL was sent.
        """
        token = self._backstage.registry.event(event)
        subject = f"payload of broadcast {token.name!r}"
        text = token.codec.encode(taken(token.codec, payload, subject, named=isinstance(event, str)), subject=subject)
        async with self._frame.statement() as connection:
            await broadcasts.send(connection, topic=token.name, payload=text, headers=self._origin.headers())
            self._frame.after_commit.append(self._backstage.engine.announced)

    @property
    def topic(self) -> str:
        """The topic of the event that this handler was called for.

        Raises:
            UsageError: it was not called for an event.
        """
        topic = self._origin.topic
        if topic is None:
            raise UsageError(f"{self._origin.title} was not called for an event, so it has no ctx.pubsub.topic.")
        return topic

    async def _store(self, frame: Frame, event: Event[Any], payload: str, inline: Sequence[Subscription[Any]]) -> int:
        shared = self._backstage.shared
        if shared is not None and not frame.unit.transactional:
            return await shared.publish(NewEvent(event.name, payload, self._origin.headers()))
        async with frame.statement() as connection:
            id, queues = await events.publish(
                connection, topic=event.name, payload=payload, headers=self._origin.headers()
            )
            frame.after_commit.append(lambda: self._backstage.engine.ready(queues))
        for one in inline:
            origin, given = inline_call(self._origin, one, topic=event.name, payload=payload)
            async with frame.nested() as inner:
                await self._run_inline(self._backstage, inner, origin, one, given)
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

    @overload
    def broadcast(self, event: Event[T] | OnBroadcast[T], payload: T) -> None: ...
    @overload
    def broadcast(self, event: str, payload: Any = None) -> None: ...
    def broadcast(self, event: Any, payload: Any = None) -> None:
        self._wait(self._client().broadcast(event, payload))

    def replay(self, subscription: Subscription[Any] | str, *, since: datetime | None = None) -> int:
        return self._wait(self._client().replay(subscription, since=since))

    def drop(self, subscription: Subscription[Any] | str, *, force: bool = False) -> int:
        return self._wait(self._client().drop(subscription, force=force))

    def subscriptions(self) -> list[tuple[str, str]]:
        return self._wait(self._client().subscriptions())

    def topics(self) -> list[dict[str, object]]:
        return self._wait(self._client().topics())

    def events(
        self, topic: str | None = None, *, above: int = 0, below: int | None = None, limit: int = 100
    ) -> list[StoredEvent]:
        return self._wait(self._client().events(topic, above=above, below=below, limit=limit))

    @property
    def topic(self) -> str:
        return self._client().topic
