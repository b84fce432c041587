"""Rehearsal: what a test holds while an app is rehearsed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from chimpbase import App, Ctx, Event, Queue, Run, Signal, errors
from chimpbase._app.crashes import Crash
from chimpbase._app.definitions import Action, Subscription, Worker, Workflow
from chimpbase._app.rehearsal import Drained, RehearsedRuntime
from chimpbase._app.rehearsal_server import fresh_database

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_MOST = 10_000


class Rehearsal:
    """An app under test: it does nothing by itself. Made by `rehearse`.

    Two clocks run: the machine's, and the durable one by which jobs, schedules, sleeps, timeouts and expiring keys
    are judged. `advance` moves the durable one, `chimpbase.clock()` in SQL, and never `now()`.
    """

    def __init__(self, app: App, runtime: RehearsedRuntime) -> None:
        self.app = app
        self._runtime = runtime

    @property
    def database_url(self) -> str:
        """The database, with its password if it has one."""
        return self._runtime.database.dsn

    @property
    def address(self) -> str | None:
        """Where HTTP is served with `rehearse(app, http=True)`; None otherwise."""
        return self._runtime.address

    @overload
    async def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, action: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call(self, action: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run an action as `App.call` does, to its commit. Its jobs and events wait for `drain`."""
        return await self._runtime.call(action, *args, **kwargs)

    def transaction(self) -> AbstractAsyncContextManager[Ctx]:
        """A ctx in a transaction of its own, as `App.transaction`. Leave it before you drain."""
        return self._runtime.transaction()

    async def drain(self, *, raising: bool = False, most: int = _MOST) -> Drained:
        """Run every job, delivery, occurrence and activation that is due, and what follows from them, until none is.

        They run here, one after another: by priority, then in the order in which they became ready. Handlers' errors
        are in the answer, and their jobs are retried or dead as always; with `raising` the first one is raised.

        Raises:
            UsageError: more than `most` attempts: they may be making each other for ever.
        """
        return await self._runtime.drain(raising=raising, most=most)

    async def advance(
        self, by: timedelta, *, every_occurrence: bool = True, raising: bool = False, most: int = _MOST
    ) -> Drained:
        """Let time pass without waiting: `drain` now and at every instant on the way at which something falls due.

        So retries, delays, schedules, sleeps and timeouts happen at their time and see what came before them. A
        schedule of every second makes a long way of three days: with `every_occurrence=False` schedules are not looked
        at before the end, and then fire as their misfire policy says. `most` is for each instant.

        Raises:
            UsageError: `by` is negative, or as `drain`.
        """
        if by < timedelta(0):
            raise errors.UsageError(f"Time passes in one direction; advance takes no {by}.")
        return await self._runtime.advance(by, every_occurrence=every_occurrence, raising=raising, most=most)

    async def now(self) -> datetime:
        """What the durable clock says, in UTC. It goes on in real time between the steps of `advance`."""
        return await self._runtime.now()

    @overload
    async def enqueued(self, queue: Queue[T] | Worker[T, R]) -> list[T]: ...
    @overload
    async def enqueued(self, queue: str) -> list[Any]: ...
    async def enqueued(self, queue: Any) -> list[Any]:
        """The payloads of the jobs that wait in a queue, ready or later, in the order in which they would run.

        Raises:
            NotRegistered: no queue of that name.
        """
        token = self.app.registry.queue(queue)
        return [
            token.codec.decode(text, subject=f"payload of queue {token.name!r}")
            for text in await self._runtime.waiting(token.name)
        ]

    @overload
    async def published(self, event: Event[T] | Subscription[T]) -> list[T]: ...
    @overload
    async def published(self, event: str) -> list[Any]: ...
    async def published(self, event: Any) -> list[Any]:
        """The payloads of every event published so far, delivered or not, oldest first.

        Raises:
            NotRegistered: no event of that name.
        """
        token = self.app.registry.event(event)
        return [
            token.codec.decode(text, subject=f"payload of event {token.name!r}")
            for text in await self._runtime.events(token.name)
        ]

    async def run(self, id: str) -> Run:
        """What a run is doing.

        Raises:
            NotFound: no run with that id.
        """
        async with self.transaction() as ctx:
            return await ctx.workflow.get(id)

    async def result(self, id: str) -> Any:
        """The result of a run that has ended. It never waits, for nothing would happen meanwhile.

        Raises:
            NotFound: no run with that id.
            WorkflowFailed: it failed, or is blocked.
            WrongState: it has not ended.
        """
        run = await self.run(id)
        if run.finished_at is None and run.status != "blocked":
            raise errors.WrongState(
                f"Run {id!r} is {run.status}. Drain, send what it waits for, or advance first.",
                state=run.status,
                wanted="completed",
            )
        async with self.transaction() as ctx:
            return await ctx.workflow.result(id, timeout=1)

    async def crash_and_replay(self, id: str) -> list[str]:
        """Run a workflow's code again from the top over what its run wrote down, as after a crash; the keys it met.

        Nothing is written and no step runs. Call it where a run rests and where it has ended.

        Raises:
            NotFound: no run with that id.
            AssertionError: the code went another way: it did not ask for all that is written, went past what is
                written of a run that has ended, or ended otherwise. A workflow must do nothing but decide.
        """
        return await self._runtime.replay(id)

    async def crash_everywhere(
        self,
        workflow: Workflow[T, Any] | str,
        input: T | Any = None,
        *,
        signals: Sequence[tuple[Signal[Any] | str, Any]] = (),
        effects: Callable[[Ctx, str], Awaitable[object]] | None = None,
        within: timedelta = timedelta(days=1),
    ) -> int:
        """Run a workflow again and again, with a crash before and after each checkpoint in turn; how many crashes.

        Each time `signals` are sent at the start and `within` passes. `effects(ctx, run_id)` tells what a run has done.

        Raises:
            AssertionError: a run that crashed ended otherwise, or did something else, than one that did not.
        """
        crash = Crash()
        expected = await self._crashed(crash, "crash-0", workflow, input, signals, effects, within)
        struck = 0
        for at in range(1, crash.count + 1):
            for moment in ("before", "after"):
                crash_here, id = Crash(at=at, moment=moment), f"crash-{at}-{moment}"
                found = await self._crashed(crash_here, id, workflow, input, signals, effects, within)
                if found != expected:
                    raise AssertionError(
                        f"Crashed {moment} checkpoint {at}, the run gives {found}; undisturbed, {expected}."
                    )
                struck += crash_here.struck
        return struck

    async def _crashed(
        self,
        crash: Crash,
        id: str,
        workflow: Any,
        input: Any,
        signals: Sequence[tuple[Any, Any]],
        effects: Callable[[Ctx, str], Awaitable[object]] | None,
        within: timedelta,
    ) -> tuple[object, ...]:
        async with self.transaction() as ctx:
            await ctx.workflow.start(workflow, input, id=id)
            for signal, payload in signals:
                await ctx.workflow.signal(id, signal, payload)
        self._runtime.listen(crash)
        try:
            await self.advance(within, every_occurrence=False)
        finally:
            self._runtime.listen(None)
        run = await self.run(id)
        async with self.transaction() as ctx:
            done = None if effects is None else await effects(ctx, id)
        return run.status, run.output, run.error, done


@asynccontextmanager
async def rehearse(
    app: App,
    *,
    database_url: str | None = None,
    http: bool = False,
    inline: bool = False,
    project: Path | None = None,
    **settings: Any,
) -> AsyncGenerator[Rehearsal]:
    """Run an app for a test: on real PostgreSQL, with nothing in the background, on a clock that the test moves.

    Without a `database_url` each rehearsal gets a fresh database with the migrations of the `project` (default: the
    current directory), dropped at the end. They are copied within milliseconds on a private server, which is started
    once for the process; `CHIMPBASE_TEST_DATABASE_URL` names another server whose user may create databases.
    `DATABASE_URL` is never used. `settings` are those of `App.running`; `http=True, port=0` serves on a free port.

    With `inline` every call and transaction, over HTTP too, is drained once it has committed: when it returns, all it
    caused that is due has happened, and the first error of a handler is raised.

    Raises:
        ConfigError: a setting is wrong.
        SchemaError: a migration failed.
        UsageError: the app runs already.

    Example:
        >>> import asyncio
        >>> from chimpbase.testing import rehearse
        >>> app, mails = App("club"), Queue("mail", str)
        >>> @app.worker(mails)
        ... async def send(ctx: Ctx, address: str) -> None:
        ...     await ctx.kv.set(address, "sent")
        >>> async def test() -> None:
        ...     async with rehearse(app) as t:
        ...         async with t.transaction() as ctx:
        ...             await ctx.queue.enqueue(mails, "ada@example.org", delay=timedelta(days=1))
        ...         print(await t.enqueued(mails), (await t.drain()).completed)
        ...         print(await t.enqueued(mails), (await t.advance(timedelta(days=1))).completed)
        >>> asyncio.run(test())
        ['ada@example.org'] 0
        ['ada@example.org'] 1
    """
    here = project or Path.cwd()
    if database_url is None:
        async with fresh_database(project=here) as url, _rehearsal(app, url, http, inline, here, settings) as rehearsal:
            yield rehearsal
    else:
        async with _rehearsal(app, database_url, http, inline, here, settings) as rehearsal:
            yield rehearsal


@asynccontextmanager
async def _rehearsal(
    app: App, url: str, http: bool, inline: bool, project: Path, settings: dict[str, Any]
) -> AsyncGenerator[Rehearsal]:
    overrides = {**settings, "database_url": url}
    runtime = RehearsedRuntime(app, overrides=overrides, http=http, project=project, inline=inline)
    async with app._run(runtime):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield Rehearsal(app, runtime)
