"""Definitions: what a decorator returns. Pure values: a name, a function and its policy; nothing is registered.

Calling an action, or a step, needs a ctx: `await place_order(ctx, new)` joins the caller's transaction.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, overload

from chimpbase._app.old_run import OldRun
from chimpbase._app.tokens import Event, Queue, Stream
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.cron import Cadence
from chimpbase._core.errors import UsageError
from chimpbase._core.limits import Limits
from chimpbase._core.names import check_name
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry
from chimpbase._core.values import DAY, ScheduleTerms
from chimpbase._engine.steps import Policy

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


#: Where a plain function runs: in a thread of the process that claimed the job, or in a child process.
Executor = Literal["thread", "process"]


_NO_RESULTS = (NoneType, Snooze, Cancel, DeadLetter)


class Caller(Protocol):
    """What an action needs of the ctx it is called with."""

    def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...


class StepRunner(Protocol):
    """What a step needs of the wf or ctx it is called with."""

    def run_step(self, step: Step[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, R]: ...


class SyncStepRunner(Protocol):
    """What a step needs of the ctx of a plain function."""

    def run_step(self, step: Step[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R: ...


def source_of(function: Callable[..., Any]) -> str:
    """`file:line` of a function, for messages and listings."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What all definitions have: a durable name, the function behind it, and whether it is async."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    kind = "definition"

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(f"@{self.kind} decorates a function, not {self.function!r:.60}.")
        try:
            check_name(self.kind, self.name)
            self._check_context()
        except UsageError as error:
            raise UsageError(f"{error} ({self.source})") from None

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    @property
    def source(self) -> str:
        """`file:line` of the function."""
        return source_of(self.function)

    @cached_property
    def title(self) -> str:
        """For logs and errors: kind, name and place."""
        return f"{self.kind} {self.name!r} ({self.source})"

    def _check_context(self) -> None:
        """Refuse two mistakes that would hang or leak: an async handler with a sync ctx, and the reverse."""
        parameters = list(inspect.signature(self.function).parameters.values())
        if not parameters:
            raise UsageError(
                f"@{self.kind} {self.name!r} must take a context as its first parameter, such as `ctx: Ctx`."
            )
        asked = parameters[0].annotation
        asked = (asked if isinstance(asked, str) else str(getattr(asked, "__name__", ""))).split(".")[-1]
        self._check_asked(asked)

    def _check_asked(self, asked: str) -> None:
        """Judge the class, by its name, that the first parameter is annotated with."""
        if asked == "Wf":
            raise UsageError(f"@{self.kind} {self.name!r} asks for Wf, which only a workflow is given; ask for Ctx.")
        if self.is_async and asked == "SyncCtx":
            raise UsageError(
                f"@{self.kind} {self.name!r} is async and asks for SyncCtx; ask for Ctx, or write a plain `def`."
            )
        if not self.is_async and asked == "Ctx":
            raise UsageError(
                f"@{self.kind} {self.name!r} is a plain `def` and asks for Ctx; ask for SyncCtx, or write `async def`."
            )


@dataclass(frozen=True, kw_only=True)
class Action(Definition, Generic[P, R]):
    """A named business operation. It runs in one transaction, which it shares with the action that calls it."""

    parameters: Parameters = field(init=False, repr=False)
    kind = "action"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parameters", Parameters.from_function(self.function))

    def __call__(self, ctx: Caller, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run inside the caller's transaction, under a savepoint: a failure that is caught takes back all it did."""
        return ctx.call(self, *args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Worker(Definition, Generic[T, R]):
    """The handler of a queue's jobs. `results` writes and reads what it returns, None when that is nothing."""

    queue: Queue[T]
    retry: Retry
    timeout: timedelta | None
    concurrency: int | None
    limits: Limits | None
    transaction: bool
    retention: timedelta | None = DAY
    executor: Executor = "thread"
    batch: int = 1
    results: Codec[R] | None = field(init=False, repr=False)
    kind = "worker"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "results", _results(self.function) if self.batch == 1 else None)
        if self.executor == "process" and self.batch > 1:
            raise UsageError(f"{self.title}: a batch runs in a thread or on the event loop, not in a child process.")
        if self.executor == "process" and (self.is_async or "<locals>" in self.function.__qualname__):
            raise UsageError(
                f"{self.title}: executor='process' takes a plain `def` at the top of a module, which the child process "
                "imports."
            )


def _results(function: Callable[..., Any]) -> Codec[Any] | None:
    """For what a worker returns beside outcomes and None; None when that is nothing."""
    parameters = Parameters.from_function(function)
    returns = parameters.returns
    if get_origin(returns) in (Union, UnionType):
        kept = [one for one in get_args(returns) if one not in _NO_RESULTS]
        returns = Union[tuple(kept)] if kept else None  # noqa: UP007
    if returns is None or returns in _NO_RESULTS:
        return None
    return replace(parameters, returns=returns).return_codec


@dataclass(frozen=True, kw_only=True)
class Subscription(Definition, Generic[T]):
    """A durable interest in an event, and what is done about each one.

    `conditions` is the filter, one dict for each: path, operator, value. `start` is for a subscription that is new.
    """

    event: Event[T]
    conditions: tuple[Mapping[str, Any], ...] = ()
    ordered_by: str | None = None
    start: Literal["now", "beginning"] | datetime = "now"
    dispatch: Literal["job", "inline"] = "job"
    retry: Retry
    timeout: timedelta | None
    concurrency: int | None
    limits: Limits | None
    transaction: bool
    kind = "subscription"


@dataclass(frozen=True, kw_only=True)
class OnBroadcast(Definition, Generic[T]):
    """What every process does about the broadcasts of a topic, and about having missed some."""

    event: Event[T]
    on_gap: Callable[[], Awaitable[None] | None] | None
    kind = "broadcast handler"


@dataclass(frozen=True, kw_only=True)
class Cron(Definition, Generic[T]):
    """What is done at each occurrence of a schedule, and the schedule that code declares for it, unless it has none."""

    schedule: ScheduleTerms | None
    payload_codec: Codec[T] = field(repr=False)
    retry: Retry
    timeout: timedelta | None
    transaction: bool
    kind = "cron"

    @property
    def cadence(self) -> Cadence | None:
        """When its own schedule is due; None when it only has schedules that are made at run time."""
        return Cadence(self.schedule.expression, self.schedule.tz) if self.schedule else None


@dataclass(frozen=True, kw_only=True)
class Consumer(Definition, Generic[T]):
    """A durable reader of a stream, and what is done about its entries, a batch at a time."""

    stream: Stream[T]
    batch: int
    partitions: int
    start: Literal["beginning", "now"] | datetime
    retry: Retry
    poison: Literal["dead_letter", "pause"]
    timeout: timedelta | None
    kind = "consumer"


@dataclass(frozen=True, kw_only=True)
class Step(Definition, Generic[P, R]):
    """A function whose result a workflow remembers: run until it succeeds once, then never again for that run."""

    retry: Retry
    timeout: timedelta | None
    transaction: bool = True
    durable: Literal["each", "lazy"] = "each"
    on_exhausted: Literal["fail", "pause"] = "fail"
    was: str | None = None
    parameters: Parameters = field(init=False, repr=False)
    policy: Policy = field(init=False, repr=False)
    kind = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.durable not in ("each", "lazy"):
            raise UsageError(f'{self.title}: durable must be "each" or "lazy", not {self.durable!r:.40}.')
        if self.on_exhausted not in ("fail", "pause"):
            raise UsageError(f'{self.title}: on_exhausted must be "fail" or "pause", not {self.on_exhausted!r:.40}.')
        if self.was is not None:
            check_name("step", self.was)
        object.__setattr__(self, "parameters", Parameters.from_function(self.function))
        policy = Policy(self.retry, self.on_exhausted == "pause", self.durable == "lazy", self.was)
        object.__setattr__(self, "policy", policy)

    @overload
    def __call__(self, wf: StepRunner, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, wf: SyncStepRunner, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, wf: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        """In a workflow: the remembered result, or run and remember. With a ctx: run as a part of its transaction."""
        return wf.run_step(self, args, kwargs)


@dataclass(frozen=True, kw_only=True)
class Workflow(Definition, Generic[T, R]):
    """A durable function. Runs are pinned to the version they started with."""

    version: int
    concurrency: int
    limits: Limits | None
    migrate: Mapping[int, Callable[[OldRun], None]] = field(default_factory=dict[int, "Callable[[OldRun], None]"])
    parameters: Parameters = field(init=False, repr=False)
    kind = "workflow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.version) is not int or not 1 <= self.version < 2**31:
            raise UsageError(f"{self.title}: version must be a whole number from 1, not {self.version!r:.40}.")
        if not all(type(old) is int and 1 <= old < self.version for old in self.migrate):
            raise UsageError(f"{self.title}: migrate maps older versions to functions, not {list(self.migrate)}.")
        if not self.is_async:
            raise UsageError(f"{self.title} must be `async def`: it waits. Put blocking work into steps.")
        if self.limits and self.limits.by_key:
            raise UsageError(
                f"{self.title}: a run has no key; only Limits(concurrency=, rate=) hold for its activations."
            )
        object.__setattr__(self, "parameters", Parameters.from_function(self.function))
        if len(self.parameters.items) > 1:
            raise UsageError(
                f"{self.title} takes {len(self.parameters.items)} values; it may take one. Wrap them in a dataclass."
            )

    def _check_asked(self, asked: str) -> None:
        if asked in ("Ctx", "SyncCtx"):
            raise UsageError(
                f"@workflow {self.name!r} asks for {asked}, but a workflow is given a Wf, whose verbs are durable; ask "
                "for Wf, and put what needs a ctx into steps."
            )

    @property
    def input_codec(self) -> Codec[T]:
        return self.parameters.items[0].codec if self.parameters.items else codec_for(None)

    @property
    def return_codec(self) -> Codec[R]:
        return self.parameters.return_codec
