"""The decorator of those who hear broadcasts."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.decorator_arguments import Keeper, check_payload
from chimpbase._app.definitions import OnBroadcast
from chimpbase._app.subscription_arguments import event_of
from chimpbase._app.sync import SyncCtx
from chimpbase._app.tokens import Event
from chimpbase._core.errors import UsageError

T = TypeVar("T")
OnGap = Callable[[], Awaitable[None] | None]
BroadcastHandler = Callable[[Ctx, T], Coroutine[Any, Any, None]] | Callable[[SyncCtx, T], None]


class BroadcastDecorator(Keeper):
    """`on_broadcast`."""

    @overload
    def on_broadcast(
        self, event: Event[T], *, name: str | None = ..., on_gap: OnGap | None = ...
    ) -> Callable[[BroadcastHandler[T]], OnBroadcast[T]]: ...
    @overload
    def on_broadcast(
        self, event: str, *, name: str | None = ..., on_gap: OnGap | None = ...
    ) -> Callable[[BroadcastHandler[Any]], OnBroadcast[Any]]: ...
    def on_broadcast(
        self, event: Event[Any] | str, *, name: str | None = None, on_gap: OnGap | None = None
    ) -> Callable[[BroadcastHandler[Any]], OnBroadcast[Any]]:
        """Define what every live process does when something is broadcast: drop what it has cached, tell a live page.

        Every process that runs the app gets each broadcast once, after its commit, also one that works no queues. It is
        best effort: an error of the handler is logged and nothing is repeated, and who is not running gets nothing. A
        process that is cut off for less than a minute hears all of it afterwards. Where one may have missed something
        `on_gap` is called without arguments, in order with the broadcasts: drop the whole cache there.

        A topic may be a pattern, as for `subscribe`. A handler gets one broadcast at a time; others do not wait for it.
        When 10,000 wait for one handler, they are dropped as a gap.

        Example:
            >>> prices: dict[str, float] = {}
            >>> @on_broadcast("price.changed", on_gap=prices.clear)
            ... async def forget(ctx: Ctx, sku: str) -> None:
            ...     prices.pop(sku, None)
            >>> forget.event.name
            'price.changed'
        """

        def decorate(function: Callable[..., Any]) -> OnBroadcast[Any]:
            token = event_of(event, function)
            check_payload(function, token.type)
            return self._keep(
                OnBroadcast(name=name or function.__name__, function=function, event=token, on_gap=_gap(on_gap))
            )

        return decorate


def _gap(on_gap: Any) -> Any:
    if on_gap is None:
        return None
    if not callable(on_gap):
        raise UsageError(f"on_gap takes a function without arguments, not {on_gap!r:.60}.")
    try:
        inspect.signature(on_gap).bind()
    except TypeError as error:
        raise UsageError(f"on_gap is called without arguments: {error}.") from None
    except ValueError:  # one of the built-in functions that cannot be asked
        return on_gap
    return on_gap
