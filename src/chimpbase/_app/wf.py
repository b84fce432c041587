"""Wf: what the code of a workflow is given. It has only durable verbs: a side effect here is a type error.

The code runs again from the top at each activation; every verb that has run before answers from the journal, so between
two verbs the code must do nothing but decide.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.invoke import invoke
from chimpbase._app.origin import Origin
from chimpbase._app.tokens import Signal
from chimpbase._core.codec import Codec
from chimpbase._core.durations import seconds
from chimpbase._core.errors import AttemptTimeout, UsageError
from chimpbase._core.names import check_name
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry
from chimpbase._engine.journal import Journal, StepBody
from chimpbase._pg.connection import Connection

if TYPE_CHECKING:
    from chimpbase._app.backstage import Backstage
    from chimpbase._app.definitions import Step

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_RETRY = Retry(max_attempts=3)
_log = logging.getLogger("chimpbase.workflow")


class Wf:
    """The durable side of one run. Not to be kept after the workflow returns."""

    def __init__(self, backstage: Backstage, journal: Journal, origin: Origin) -> None:
        self._backstage, self._journal, self._origin = backstage, journal, origin

    @property
    def id(self) -> str:
        """The run's id."""
        return self._journal.run.id

    @property
    def started_at(self) -> datetime:
        """When the run was started; the same in every activation."""
        return self._journal.run.started_at

    async def sleep(self, duration: timedelta | float) -> None:
        """Rest for a time (seconds if a number) from when the run first comes here. Only a row waits meanwhile."""
        rest = seconds(duration, subject="sleep")
        await self._journal.sleep("sleep", until=lambda now: now + rest)

    async def sleep_until(self, instant: datetime) -> None:
        """Rest until an instant (aware); one that has passed does not rest.

        Raises:
            UsageError: the instant has no time zone.
        """
        if instant.tzinfo is None:
            raise UsageError("wf.sleep_until needs an aware datetime: give it a tzinfo, such as timezone.utc.")
        await self._journal.sleep("sleep", until=lambda _: instant)

    @overload
    async def wait(self, signal: Signal[T], *, timeout: timedelta | float | None = None) -> T | None: ...
    @overload
    async def wait(self, signal: str, *, timeout: timedelta | float | None = None) -> Any: ...
    async def wait(self, signal: Any, *, timeout: timedelta | float | None = None) -> Any:
        """The next signal of that name, also one sent before; None when `timeout` (seconds if a number) passes first.

        Raises:
            PayloadError: what was sent does not fit the signal's type.
        """
        token = self._backstage.registry.signal(signal)
        limit = None if timeout is None else seconds(timeout, subject="timeout")
        text = await self._journal.wait(token.name, timeout=limit)
        return None if text is None else token.codec.decode(text, subject=f"payload of signal {token.name!r}")

    async def step(self, name: str, function: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run any function as a step under a name of its own: async, or plain in a thread. It gets no ctx.

        Raises:
            StepFailed: it used up its three attempts.
        """
        check_name("step", name)
        codec: Codec[R] = Parameters.from_function(function, skip=0).return_codec

        async def once() -> R:
            if inspect.iscoroutinefunction(function):
                return await function(*args, **kwargs)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._backstage.threads, partial(function, *args, **kwargs))  # type: ignore[arg-type]

        async def body(attempt: int, write: Callable[[Connection, str], Awaitable[None]]) -> tuple[str, bool]:
            del attempt, write  # nothing here opens a transaction that the memo could join
            return codec.encode(await once(), subject=f"result of step {name!r}"), False

        return codec.decode(await self._journal.step(name, body, retry=_RETRY), subject=f"result of step {name!r}")

    async def run_step(self, step: Step[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What calling a step with `wf` does."""
        codec: Codec[R] = step.parameters.return_codec
        text = await self._journal.step(step.name, self._body(step, codec, args, kwargs), retry=step.retry)
        return codec.decode(text, subject=f"result of step {step.name!r}")

    def _body(self, step: Step[..., R], codec: Codec[R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepBody:
        key = f"run:{self.id}/{self._journal.peek(step.name)}"

        async def body(attempt: int, write: Callable[[Connection, str], Awaitable[None]]) -> tuple[str, bool]:
            origin = Origin(
                title=f"{step.title} of run {self.id!r}",
                name=step.name,
                trace=self._origin.trace,
                new_trace=self._backstage.new_trace,
                cause=f"step:{step.name}",
                idempotency_key=key,
            )
            async with self._backstage.open_unit(origin.title) as unit:
                ctx = Ctx(self._backstage, unit.root, origin)
                result = await _within(step.timeout, invoke(self._backstage, step, ctx, args, kwargs))
                text = codec.encode(result, subject=f"result of step {step.name!r}")
                opened = unit.opened
                await unit.commit(lambda connection: write(connection, text))
            _log.debug("run %s: %s done (attempt %d)", self.id, step.name, attempt)
            return text, opened

        return body


async def _within(timeout: timedelta | None, work: Awaitable[R]) -> R:
    limit = asyncio.timeout(timeout.total_seconds() if timeout else None)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise AttemptTimeout(f"attempt took longer than {timeout}") from error
