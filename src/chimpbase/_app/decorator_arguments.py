"""What the decorators' arguments must be, and the one thing all decorators do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast, get_args, get_origin

from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Definition, Executor, source_of
from chimpbase._app.sync import SyncCtx
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.limits import Limits
from chimpbase._core.outcomes import Outcome
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", bound=Definition)
K = TypeVar("K")

#: What a subscription or cron handler may be: its result is None or an outcome.
Handler = Callable[[Ctx, T], Coroutine[Any, Any, Outcome | None]] | Callable[[SyncCtx, T], Outcome | None]
#: What a worker may be: any other result is kept with the job.
WorkerHandler = Callable[[Ctx, T], Coroutine[Any, Any, R | Outcome]] | Callable[[SyncCtx, T], R | Outcome]


class Keeper:
    """Returns each definition as it is. An App registers it as well."""

    def _keep(self, definition: D) -> D:
        return definition


def payload_type(function: Callable[..., Any]) -> Any:
    items = Parameters.from_function(function).items
    return items[0].codec.annotation if items else Any


def item_type(function: Callable[..., Any]) -> Any:
    """The type of one payload for a handler of batches, whose parameter is a list of them."""
    asked = payload_type(function)
    if asked is Any or asked is list:
        return Any
    if get_origin(asked) is not list:
        raise UsageError(f"{function.__name__} handles batches: its payload must be a list ({source_of(function)}).")
    return get_args(asked)[0]


def batch_of(value: int | None) -> int | None:
    """How many jobs a handler takes at a time; None when it takes one and no list."""
    if value is not None and (type(value) is not int or not 2 <= value <= 10_000):
        raise UsageError(f"batch must be a whole number from 2 to 10000, not {value!r:.40}.")
    return value


def check_payload(function: Callable[..., Any], declared: Any) -> None:
    """The handler takes a context and one payload, of the token's own type when both name one."""
    items = Parameters.from_function(function).items
    if len(items) != 1:
        raise UsageError(
            f"{function.__name__} must take a context and one payload, not {len(items)} values ({source_of(function)})."
        )
    asked = items[0].codec.annotation
    if asked is not Any and declared is not Any and asked != declared:
        raise UsageError(
            f"{function.__name__} takes {_name(asked)}, but is sent {_name(declared)} ({source_of(function)})."
        )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def timeout_of(value: timedelta | float | None) -> timedelta | None:
    return None if value is None else seconds(value, subject="timeout", minimum=timedelta(milliseconds=1))


def retry_of(value: Retry | None, default: Retry | None = None) -> Retry:
    """How often it is tried; the default, else that of `Retry()`, when nothing is said."""
    if value is None:
        return default or Retry()
    if isinstance(cast(object, value), Retry):
        return value
    raise UsageError(f"retry must be Retry(...), not {value!r:.60}.")


def flag_of(value: bool, *, subject: str) -> bool:
    """True or False, and nothing that is only taken for it."""
    if type(value) is not bool:
        raise UsageError(f"{subject} must be True or False, not {value!r:.40}.")
    return value


def token_of(value: Any, kind: type[K], make: Callable[[str], K], *, subject: str) -> K:
    """The token itself, or the one of that name."""
    if isinstance(value, str):
        return make(value)
    if isinstance(value, kind):
        return value
    raise UsageError(f"{subject} must be {kind.__name__}(...) or a name, not {value!r:.60}.")


def migrations_of(value: Any) -> dict[int, Any]:
    """What moves the runs of older versions: a function for each of their numbers."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"migrate must map older versions to functions, not {value!r:.60}.")
    return dict(cast("Mapping[int, Any]", value))


def limits_of(value: Limits | None) -> Limits | None:
    if value is None or isinstance(cast(object, value), Limits):
        return value
    raise UsageError(f"limits must be Limits(...), not {value!r:.60}.")


def retention_of(value: timedelta | float | None) -> timedelta | None:
    """How long finished jobs are kept; None keeps none."""
    return None if value is None else seconds(value, subject="retention", minimum=timedelta(seconds=1))


def slots_of(value: int | None) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= 10_000:
        raise UsageError(f"concurrency must be a whole number from 1 to 10000, not {value!r:.40}.")
    return value


def executor_of(value: Executor) -> Executor:
    """Check where a plain function is to run."""
    if value not in ("thread", "process"):
        raise UsageError(f"executor must be 'thread' or 'process', not {value!r:.40}.")
    return value
