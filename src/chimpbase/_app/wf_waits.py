"""What the code of a workflow waits with: sleeps, signals, callbacks, the first of several, and updates meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any, Generic, TypeVar, cast, overload

import msgspec

from chimpbase._app.tokens import Signal, Update
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_name
from chimpbase._core.text import name_and_message
from chimpbase._engine.rests import TIMER
from chimpbase._engine.steps import Steps
from chimpbase._pg.connection import Connection
from chimpbase._store import runs

R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Callback(Generic[T]):
    """A token that somebody outside completes once, with a value: a person's approval, a provider's webhook.

    Send `token` out in a step; `ctx.workflow.complete(token, value)` completes it. Nobody can guess it.
    """

    token: str
    name: str
    codec: Codec[T]


@dataclass(frozen=True, slots=True)
class Arm(Generic[T]):
    """One of the things that `wf.select` waits for."""

    signal: str | None
    read: Callable[[str | None], Any]
    timer: timedelta | None = None


class Request(msgspec.Struct):
    """An update on its way to a run: who waits for the reply, and the value as JSON text."""

    id: str
    name: str
    value: msgspec.Raw


class WfWaits:
    """The verbs that wait."""

    _journal: Steps

    def __init__(self, journal: Steps, signal: Callable[[Any], Signal[Any]]) -> None:
        self._journal, self._signal_of = journal, signal

    async def sleep(self, duration: timedelta | float) -> None:
        """Rest for a time (seconds if a number) from when the run first comes here. Only a row waits meanwhile."""
        rest = seconds(duration, subject="sleep")
        await self._journal.sleep("sleep", until=lambda now: now + rest)

    async def sleep_until(self, instant: datetime) -> None:
        """Rest until an instant (aware); one that has passed does not rest.

        Raises:
            UsageError: the instant has no time zone.
        """
        if not isinstance(cast("object", instant), datetime) or instant.tzinfo is None:
            raise UsageError("wf.sleep_until needs an aware datetime: give it a tzinfo, such as timezone.utc.")
        await self._journal.sleep("sleep", until=lambda _: instant)

    @overload
    async def wait(self, signal: Signal[T] | Callback[T], *, timeout: timedelta | float | None = None) -> T | None: ...
    @overload
    async def wait(
        self, signal: Signal[T] | Callback[T], *, timeout: timedelta | float | None = None, default: D
    ) -> T | D: ...
    @overload
    async def wait(self, signal: str, *, timeout: timedelta | float | None = None, default: Any = None) -> Any: ...
    async def wait(self, signal: Any, *, timeout: timedelta | float | None = None, default: Any = None) -> Any:
        """The next signal of that name, also one sent before; `default` when `timeout` (seconds) passes first.

        A callback is waited for in the same way.

        Raises:
            PayloadError: what was sent does not fit the signal's type.
        """
        arm, name = self._arm(signal)
        assert arm.signal is not None
        timeouts = {} if timeout is None else {"timeout": seconds(timeout, subject="timeout")}
        winner, payload = await self._journal.wait(f"wait:{name}", names=[arm.signal], timeouts=timeouts)
        return default if winner.startswith(TIMER) else arm.read(payload)

    def signal(self, signal: Signal[T]) -> Arm[T]:
        """For `select`: the next signal of that name."""
        return self._arm(signal)[0]

    def timer(self, duration: timedelta | float) -> Arm[None]:
        """For `select`: a time, in seconds if a number, from when the run first comes there."""
        return Arm(None, lambda _: None, seconds(duration, subject="timer"))

    async def select(self, **arms: Any) -> tuple[str, Any]:
        """Wait for the first of several: signals, callbacks, children, timers. The winner's name, and its value.

        Which one won is written down, so it is the same for ever after.

        Example:
            >>> async def decide(wf: Wf) -> str:
            ...     who, value = await wf.select(approved=wf.signal(approval), late=wf.timer(timedelta(hours=72)))
            ...     return who
        """
        if not arms:
            raise UsageError("wf.select needs something to wait for: select(paid=wf.signal(paid), late=wf.timer(60)).")
        read: dict[str, Arm[Any]] = {
            name: cast("Arm[Any]", given) if isinstance(given, Arm) else self._arm(given)[0]
            for name, given in arms.items()
        }
        names = {arm.signal: name for name, arm in read.items() if arm.signal is not None}
        if len(names) < sum(arm.signal is not None for arm in read.values()):
            raise UsageError("wf.select waits for one signal under two names. Give it once.")
        timeouts = {name: arm.timer for name, arm in read.items() if arm.timer is not None}
        winner, payload = await self._journal.wait(
            f"select:{'|'.join(sorted(read))}", names=list(names), timeouts=timeouts
        )
        name = winner.removeprefix(TIMER) if winner.startswith(TIMER) else names[winner]
        return name, read[name].read(payload)

    @overload
    async def callback(self, name: str) -> Callback[Any]: ...
    @overload
    async def callback(self, name: str, type: type[T]) -> Callback[T]: ...
    async def callback(self, name: str, type: Any = Any) -> Callback[Any]:
        """Make a token that somebody outside completes once, with a value of `type`. Wait for it with `wait`."""
        check_name("callback", name)
        codec = codec_for(type)

        async def make(connection: Connection, key: str) -> str:
            token = secrets.token_urlsafe(24)
            await runs.add_callback(connection, token=token, run=self._journal.run.number, key=key)
            return f'"{token}"'

        text = await self._journal.once(f"callback:{name}", "callback", make)
        return Callback(msgspec.json.decode(text, type=str), name, codec)

    def on(
        self,
        update: Update[T, R],
        handler: Callable[[T], R | Awaitable[R]],
        *,
        validator: Callable[[T], object] | None = None,
    ) -> None:
        """Answer updates of that name with what `handler` returns, from now on, whenever the workflow waits.

        A `validator` that raises refuses the update: the handler is not called, and the sender gets the error. The
        handler may change what the workflow knows, and call steps; it may not wait. It is called again, with the same
        values in the same places, whenever the workflow's code is run again.

        Raises:
            UsageError: it is no update, or the handler is no function.
        """
        if not isinstance(cast(object, update), Update) or not callable(handler):
            raise UsageError(f"wf.on takes an Update(...) and a function, not {update!r:.60} and {handler!r:.60}.")
        journal = self._journal
        subject = f"update {update.name!r}"

        async def apply(key: str, payload: str) -> None:
            request = msgspec.json.decode(payload, type=Request)
            result: str | None = None
            error: str | None = None
            try:
                value = update.codec.decode(bytes(request.value), subject=f"payload of {subject}")
                if validator is not None:
                    validator(value)
                answer = handler(value)
                found: Any = await answer if isawaitable(answer) else answer
                result = update.result_codec.encode(found, subject=f"result of {subject}")
            except Exception as failure:
                error = name_and_message(failure)
            if f"{key}/reply#1" not in journal.run.steps:
                await journal.once("reply", "step", lambda connection, _: reply(connection, request.id, result, error))

        async def reply(connection: Connection, id: str, result: str | None, error: str | None) -> str:
            await runs.add_reply(connection, id=id, run=journal.run.number, result=result, error=error)
            return "null"

        journal.handle(update.name, apply)

    def _arm(self, given: Any) -> tuple[Arm[Any], str]:
        """What is waited for, and its name in the journal."""
        if isinstance(given, Callback):
            codec: Codec[Any] = given.codec  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            subject = f"value of callback {given.name!r}"
            return Arm(
                f"@callback:{given.token}", lambda text: codec.decode(text or "null", subject=subject)
            ), given.name
        if hasattr(given, "__chimpbase_arm__"):
            return given.__chimpbase_arm__()
        token = self._signal_of(given)
        subject = f"payload of signal {token.name!r}"
        return Arm(token.name, lambda text: token.codec.decode(text or "null", subject=subject)), token.name
