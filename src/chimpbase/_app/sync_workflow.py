"""The blocking face of the workflow client."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from chimpbase._app.entries import Entry
from chimpbase._app.run_handle import Handle
from chimpbase._app.run_options import RunOptions
from chimpbase._app.run_views import HistoryEntry, Run
from chimpbase._app.stream_sync import next_entry
from chimpbase._app.tokens import Signal, Stream, Update
from chimpbase._app.waiter import Waiter
from chimpbase._app.workflows import WorkflowClient

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow

R = TypeVar("R")
T = TypeVar("T")


class _SyncReader:
    """The blocking face of `RunReader`."""

    def __init__(self, client: Callable[[], WorkflowClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    def get(self, run: str | Handle[Any]) -> Run:
        return self._wait(self._client().get(run))

    def find(self, workflow: Workflow[Any, Any] | str | None = None, **filters: Any) -> tuple[Run, ...]:
        return self._wait(self._client().find(workflow, **filters))

    def history(self, run: str | Handle[Any]) -> tuple[HistoryEntry, ...]:
        return self._wait(self._client().history(run))

    def export(self, run: str | Handle[Any]) -> str:
        return self._wait(self._client().export(run))

    def result(self, run: str | Handle[Any], *, timeout: timedelta | float | None = None) -> Any:
        return self._wait(self._client().result(run, timeout=timeout))

    @overload
    def tail(self, run: str | Handle[Any], stream: Stream[T], *, after: str | None = None) -> Generator[Entry[T]]: ...
    @overload
    def tail(self, run: str | Handle[Any], stream: str, *, after: str | None = None) -> Generator[Entry[Any]]: ...
    def tail(self, run: str | Handle[Any], stream: Any, *, after: str | None = None) -> Generator[Entry[Any]]:
        entries = self._client().tail(run, stream, after=after)
        with suppress(StopAsyncIteration):
            while True:
                yield self._wait(next_entry(entries))


class SyncWorkflow(_SyncReader):
    """The blocking face of `WorkflowClient`, whose verbs mean the same."""

    @overload
    def start(
        self, workflow: Workflow[T, R], input: T = ..., *, id: str | None = None, **options: Unpack[RunOptions]
    ) -> Handle[R]: ...
    @overload
    def start(
        self, workflow: str, input: Any = None, *, id: str | None = None, **options: Unpack[RunOptions]
    ) -> Handle[Any]: ...
    def start(
        self, workflow: Any, input: Any = None, *, id: str | None = None, **options: Unpack[RunOptions]
    ) -> Handle[Any]:
        return self._wait(self._client().start(workflow, input, id=id, **options))

    def signal_with_start(self, workflow: Workflow[Any, R] | str, input: Any = None, **options: Any) -> Handle[R]:
        return self._wait(self._client().signal_with_start(workflow, input, **options))

    @overload
    def signal(self, run: str | Handle[Any], signal: Signal[T], payload: T, *, dedupe: str | None = None) -> None: ...
    @overload
    def signal(
        self, run: str | Handle[Any], signal: str, payload: Any = None, *, dedupe: str | None = None
    ) -> None: ...
    def signal(self, run: str | Handle[Any], signal: Any, payload: Any = None, *, dedupe: str | None = None) -> None:
        self._wait(self._client().signal(run, signal, payload, dedupe=dedupe))

    def update(
        self, run: str | Handle[Any], update: Update[T, R], payload: T, *, timeout: timedelta | float | None = None
    ) -> R:
        return self._wait(self._client().update(run, update, payload, timeout=timeout))

    def complete(self, token: str, value: Any = None) -> None:
        self._wait(self._client().complete(token, value))

    def cancel(self, run: str | Handle[Any], reason: str = "cancelled by hand", *, force: bool = False) -> None:
        self._wait(self._client().cancel(run, reason, force=force))

    def pause(self, run: str | Handle[Any]) -> None:
        self._wait(self._client().pause(run))

    def resume(self, run: str | Handle[Any]) -> None:
        self._wait(self._client().resume(run))

    def retry(self, run: str | Handle[Any]) -> None:
        self._wait(self._client().retry(run))

    def rewind(self, run: str | Handle[Any], *, to: str) -> None:
        self._wait(self._client().rewind(run, to=to))

    def fork(self, run: str | Handle[R], *, at: str, id: str | None = None) -> Handle[R]:
        return self._wait(self._client().fork(run, at=at, id=id))
