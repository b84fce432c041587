"""What the code of a workflow does things with: steps, transactions, branches, and what undoes them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

import msgspec

from chimpbase._app.ctx import Ctx
from chimpbase._app.db_client import DbClient
from chimpbase._app.invoke import invoke
from chimpbase._app.origin import Origin
from chimpbase._app.unit import Unit
from chimpbase._app.wf_tx import TxDb
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.errors import AttemptTimeout, PayloadError, StepFailed, UsageError
from chimpbase._core.names import check_name
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry
from chimpbase._core.values import LoadedRun
from chimpbase._engine.divergence import Arguments, arguments
from chimpbase._engine.steps import Policy, Steps, Write

if TYPE_CHECKING:
    from chimpbase._app.backstage import Backstage
    from chimpbase._app.definitions import Step

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
_POLICY = Policy(Retry(max_attempts=3))
_BLOCK = Policy(Retry(max_attempts=1))
_log = logging.getLogger("chimpbase.workflow")
_any: Codec[Any] = codec_for(Any)


class _Branch:
    """What one of several tasks does, in a scope of its own."""

    def __init__(self, enter: Callable[[str], None], work: Awaitable[Any]) -> None:
        self._enter, self._work = enter, work

    async def run(self, outer: str) -> Any:
        self._enter(outer)
        return await self._work

    def discard(self) -> None:
        """Let go of work that never began, because another branch failed first or the run came to rest."""
        if inspect.iscoroutine(self._work) and inspect.getcoroutinestate(self._work) == inspect.CORO_CREATED:
            self._work.close()


class WfSteps:
    """The verbs that do something."""

    _journal: Steps
    _backstage: Backstage
    _origin: Origin
    _undo: list[tuple[str, Callable[[], Awaitable[object]]]]

    async def step(self, name: str, function: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run any function as a step under a name of its own: async, or plain in a thread. It gets no ctx.

        Raises:
            StepFailed: it used up its three attempts.
        """
        check_name("step", name)
        codec: Codec[R] = Parameters.from_function(function, skip=0).return_codec
        subject = f"result of step {name!r}"

        async def once() -> R:
            if inspect.iscoroutinefunction(function):
                return await function(*args, **kwargs)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._backstage.threads, partial(function, *args, **kwargs))  # type: ignore[arg-type]

        async def body(key: str, attempt: int, write: Write) -> tuple[str, bool]:
            del key, attempt, write  # nothing here opens a transaction that the memo could join
            return codec.encode(await once(), subject=subject), False

        given = _loosely(args, kwargs)
        return codec.decode(await self._journal.step(name, body, policy=_POLICY, given=given), subject=subject)

    async def run_step(self, step: Step[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What calling a step with `wf` does."""
        codec: Codec[R] = step.parameters.return_codec
        given = arguments(step.parameters.encode(args, kwargs, subject=f"arguments of step {step.name!r}"))
        text = await self._journal.step(
            step.name,
            _Call(self._backstage, self._origin, self._journal.run, step, codec, args, kwargs),
            policy=step.policy,
            given=given,
        )
        return codec.decode(text, subject=f"result of step {step.name!r}")

    @asynccontextmanager
    async def tx(self, name: str) -> AsyncGenerator[TxDb]:
        """A transaction as a step: what the block writes and the memory of its answers commit together, once.

        The block runs again in later activations, answered from memory; keep everything else out of it.

        Raises:
            StepFailed: the block raised, now or in an earlier activation; nothing of it was committed.
        """
        check_name("step", name)
        journal = self._journal
        inside, done = asyncio.Event(), asyncio.Event()
        answers: list[Any] = []
        failure: list[BaseException] = []
        opened: list[DbClient] = []

        async def body(key: str, attempt: int, write: Write) -> tuple[str, bool]:
            del attempt
            async with self._backstage.open_unit(f"wf.tx({name!r}) of run {journal.run.id!r}") as unit:
                origin = _origin_of(self._origin, journal.run, name, key, title=f"step {name!r}")
                opened.append(Ctx(self._backstage, unit.root, origin).db)
                inside.set()
                await done.wait()
                if failure:
                    raise failure[0]
                text = msgspec.json.encode(answers).decode()
                was_opened = unit.opened
                await unit.commit(lambda connection: write(connection, text))
            return text, was_opened

        work = asyncio.ensure_future(
            self._within_scope(journal.scopes.prefix(), journal.step(name, body, policy=_BLOCK))
        )
        waiting = asyncio.ensure_future(inside.wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():  # from the journal
                yield TxDb(name, None, msgspec.json.decode(work.result()), journal.lose)
                return
            try:
                yield TxDb(name, opened[0], answers, journal.lose)
            except Exception as error:
                failure.append(error)
            done.set()
            await work
        finally:
            waiting.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    @overload
    async def gather(self, first: Awaitable[T1], second: Awaitable[T2], /) -> tuple[T1, T2]: ...
    @overload
    async def gather(
        self, first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], /
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def gather(self, *branches: Awaitable[T]) -> tuple[T, ...]: ...
    async def gather(self, *branches: Awaitable[Any]) -> tuple[Any, ...]:
        """Run branches side by side; their results in order. The first failure cancels the others, and is raised.

        Each branch is a scope of its own, so it does not matter which is faster.

        Raises:
            UsageError: a branch is nothing that can be awaited.
        """
        for branch in branches:
            _check_awaitable(branch, "wf.gather takes what can be awaited")
        name = self._journal.scopes.name("gather")
        return await self._together([self._branch(f"{name}.{n}", branch) for n, branch in enumerate(branches)])

    async def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        key: Callable[[T], object] | None = None,
        limit: int | None = None,
    ) -> list[R]:
        """Run `function` for each item, `limit` at a time; the results in the order of the items.

        `key` names each item's scope; without it the position does, so items must not move between activations.

        Raises:
            UsageError: two items have the same key, or an argument is not what it is for.
        """
        if limit is not None and (type(limit) is not int or limit < 1):
            raise UsageError(f"wf.map(limit=) must be a whole number from 1, not {limit!r:.40}.")
        if not isinstance(cast(object, items), Iterable) or not callable(function) or not callable(key or function):
            raise UsageError("wf.map takes an async function and a list of items; key= is a function, too.")
        name = self._journal.scopes.name("map")
        given = list(items)
        names = [f"{name}[{n if key is None else key(item)}]".replace("/", "|") for n, item in enumerate(given)]
        if len(set(names)) < len(names):
            raise UsageError("wf.map: two items have the same key. Give each item one of its own.")
        room = asyncio.Semaphore(limit or max(len(given), 1))

        async def one(item: T) -> R:
            async with room:
                return await _check_awaitable(
                    function(item), "wf.map takes an async function, whose calls can be awaited"
                )

        branches = [self._branch(scope, one(item)) for scope, item in zip(names, given, strict=True)]
        return list(await self._together(branches))

    @overload
    def undo(self, step: Step[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    def undo(self, step: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def undo(self, step: Any, /, *args: Any, **kwargs: Any) -> None:
        """If the run fails or is cancelled: call `step` with these, as a step of its own, the last one first."""
        from chimpbase._app.definitions import Step

        given = step
        name: str = given.name if isinstance(given, Step) else getattr(given, "__name__", "undo")

        def call() -> Awaitable[object]:
            if isinstance(given, Step):
                return self.run_step(cast("Step[..., Any]", given), args, kwargs)
            return self.step(f"undo:{name}", given, *args, **kwargs)

        self._undo.append((name, call))

    @asynccontextmanager
    async def shield(self) -> AsyncGenerator[None]:
        """What is done in the block is done though the run is being cancelled: to clean up."""
        self._journal.enter_shield()
        try:
            with self._journal.scopes.shield():
                yield
        finally:
            self._journal.leave_shield()

    async def compensate(self) -> list[str]:
        """Undo what was noted, the last first; the steps that could not be undone."""
        failed: list[str] = []
        async with self.shield():
            while self._undo:
                name, call = self._undo.pop()
                try:
                    await call()
                except StepFailed as error:
                    failed.append(f"{name}: {error}")
                    _log.error("run %s: %s could not be undone: %s", self._journal.run.id, name, error)
        return failed

    def _branch(self, scope: str, work: Awaitable[Any]) -> _Branch:
        return _Branch(partial(self._journal.scopes.enter, name=scope), work)

    async def _together(self, branches: list[_Branch]) -> tuple[Any, ...]:
        outer = self._journal.scopes.prefix()
        tasks = [asyncio.ensure_future(branch.run(outer)) for branch in branches]
        try:
            return tuple(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for branch in branches:
                branch.discard()

    async def _within_scope(self, prefix: str, work: Awaitable[R]) -> R:
        self._journal.scopes.adopt(prefix)
        return await work


class _Call:
    """A step with what it is called with: its body. One is made for each step that is asked for."""

    __slots__ = ("_args", "_codec", "_kwargs", "_origin", "_run", "_stage", "_step")

    def __init__(
        self,
        stage: Backstage,
        origin: Origin,
        run: LoadedRun,
        step: Step[..., Any],
        codec: Codec[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._stage, self._origin, self._run = stage, origin, run
        self._step, self._codec, self._args, self._kwargs = step, codec, args, kwargs

    async def __call__(self, key: str, attempt: int, write: Write) -> tuple[str, bool]:
        stage, step = self._stage, self._step
        origin = _origin_of(self._origin, self._run, step.name, key, title=step.title)
        unit, untouched = Unit(stage.db, title=origin.title, transaction=step.transaction), False
        try:
            work = invoke(stage, step, Ctx(stage, unit, origin), self._args, self._kwargs)
            result = await (work if step.timeout is None else _within(step.timeout, work))
            text = self._codec.encode(result, subject=f"result of step {step.name!r}")
            untouched, opened = unit.end_untouched(), unit.opened
            if not untouched:
                await unit.commit(lambda connection: write(connection, text))
        finally:
            if not (untouched or unit.committed):
                await unit.rollback()
        return text, opened


def _origin_of(around: Origin, run: LoadedRun, name: str, key: str, *, title: str) -> Origin:
    """Where the call of a step comes from; its trace is that of the run."""
    return Origin(
        title=f"{title} of run {run.id!r}",
        name=name,
        trace=around.trace,
        new_trace=around.new_trace,
        cause=f"step:{name}",
        idempotency_key=f"run:{run.seed}/{key}" if run.round == 1 else f"run:{run.seed}/{run.round}/{key}",
    )


def _loosely(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    """A hash of arguments of any type; None when they are not of JSON types."""
    try:
        return arguments(_any.encode([list(args), kwargs] if kwargs else list(args), subject="arguments"))
    except PayloadError:
        return None


async def _within(timeout: timedelta, work: Awaitable[R]) -> R:
    limit = asyncio.timeout(timeout.total_seconds())
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise AttemptTimeout(f"attempt took longer than {timeout}") from error


def _check_awaitable(given: A, rule: str) -> A:
    if not inspect.isawaitable(given):
        raise UsageError(f"{rule}, not {given!r:.60}.")
    return given
