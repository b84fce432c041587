"""The part of the workflow client that looks at runs, and waits for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, overload

from chimpbase._app.entries import Entry
from chimpbase._app.journals import load_journal, write_journal
from chimpbase._app.registry import stream_of
from chimpbase._app.run_handle import Handle
from chimpbase._app.run_options import encode_attributes
from chimpbase._app.run_views import HistoryEntry, Run, entry_of, run_of
from chimpbase._app.tokens import Stream
from chimpbase._app.unit import Frame
from chimpbase._core.durations import seconds
from chimpbase._core.errors import AttemptTimeout, NotFound, UsageError, WorkflowFailed
from chimpbase._core.names import check_key, check_name
from chimpbase._core.values import RunState
from chimpbase._store import run_queries

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

R = TypeVar("R")
T = TypeVar("T")
_STATES: tuple[str, ...] = get_args(RunState)


class RunReader:
    """Looks at runs, as this transaction sees them."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    async def get(self, run: str | Handle[Any]) -> Run:
        """What a run is doing.

        Raises:
            NotFound: no run with that id.
        """
        id = id_of(run)
        async with self._frame.statement() as connection:
            return run_of(id, await run_queries.get(connection, id=id))

    async def history(self, run: str | Handle[Any]) -> tuple[HistoryEntry, ...]:
        """What a run has done, in order.

        Raises:
            NotFound: no run with that id.
        """
        id = id_of(run)
        async with self._frame.statement() as connection:
            past = await run_queries.load_past(connection, id=id)
        if past is None:
            raise NotFound("run", id)
        return tuple(entry_of(memo) for memo in past.run.steps.values())

    async def export(self, run: str | Handle[Any]) -> str:
        """The journal of a run as a text of JSON, for a file: `chimpbase.testing.replay` runs code over it, in a test.

        It holds the input and the results of the steps as they are, so mind what is in them.

        Raises:
            NotFound: no run with that id.
        """
        id = id_of(run)
        async with self._frame.statement() as connection:
            journal = await load_journal(connection, id=id)
        if journal is None:
            raise NotFound("run", id)
        return write_journal(journal)

    async def find(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        *,
        status: RunState | Sequence[RunState] | None = None,
        attributes: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        most: int = 100,
    ) -> tuple[Run, ...]:
        """The newest runs first, at most `most`: of a workflow, in a status or one of several, with attributes, started
        in a time.

        Raises:
            UsageError: a status is none, or `most` is not from 1 to 10,000.
        """
        given = (status,) if isinstance(status, str) else status
        if given is not None and not isinstance(cast("object", given), Sequence):
            raise UsageError(f"status must be one of {', '.join(_STATES)}, or several, not {given!r:.40}.")
        states: list[Any] | None = None if given is None else list(given)
        if wrong := [one for one in states or () if one not in _STATES]:
            raise UsageError(f"There is no status {wrong[0]!r:.40}. There are: {', '.join(_STATES)}.")
        if isinstance(most, bool) or not isinstance(cast("object", most), int) or not 1 <= most <= 10_000:
            raise UsageError(f"most must be a whole number from 1 to 10000, not {most!r:.40}.")
        for name, instant in (("since", since), ("until", until)):
            if instant is not None and (not isinstance(cast("object", instant), datetime) or instant.tzinfo is None):
                raise UsageError(f"{name} must be an aware datetime: give it a tzinfo, such as timezone.utc.")
        named = workflow if workflow is None or isinstance(workflow, str) else getattr(workflow, "name", workflow)
        found = None if named is None else check_name("workflow", cast("str", named))
        async with self._frame.statement() as connection:
            rows = await run_queries.list_recent(
                connection,
                workflow=found,
                states=states,
                attributes=None if attributes is None else encode_attributes(attributes),
                since=since,
                until=until,
                max_runs=most,
            )
        return tuple(run_of(row.id, row) for row in rows)

    @overload
    def tail(
        self, run: str | Handle[Any], stream: Stream[T], *, after: str | None = None
    ) -> AsyncGenerator[Entry[T]]: ...
    @overload
    def tail(self, run: str | Handle[Any], stream: str, *, after: str | None = None) -> AsyncGenerator[Entry[Any]]: ...
    def tail(self, run: str | Handle[Any], stream: Any, *, after: str | None = None) -> AsyncGenerator[Entry[Any]]:
        """What a run puts out with `wf.emit`, from its first entry or after a position, as it comes; to the run's end.

        It reads outside this transaction, and holds no connection while it waits. A client that was cut off goes on
        after the last `entry.position` that it has seen. It ends also when the run is blocked.

        Raises:
            NotFound: no run with that id.
            EntriesDropped, PayloadError: as `ctx.stream.read`.
        """
        return self._backstage.tail(stream_of(self._backstage.registry, stream), run=id_of(run), after=after)

    @overload
    async def result(self, run: Handle[R], *, timeout: timedelta | float | None = None) -> R: ...
    @overload
    async def result(self, run: str, *, timeout: timedelta | float | None = None) -> Any: ...
    async def result(self, run: str | Handle[Any], *, timeout: timedelta | float | None = None) -> Any:
        """Wait until a run ends; its result. Sees only what is committed, so never await a run started in this call.

        `timeout` is in seconds if a number; None waits for as long as it takes.

        Raises:
            NotFound: no run with that id.
            WorkflowFailed: it failed, was cancelled, or is blocked.
            AttemptTimeout: it has not ended in time.
        """
        id = id_of(run)
        limit_s = None if timeout is None else seconds(timeout, subject="timeout").total_seconds()
        try:
            end = await self._backstage.run_end(id, limit_s)
        except TimeoutError as error:
            raise AttemptTimeout(f"run {id!r} has not ended within {limit_s:g} s") from error
        if end is None:
            raise NotFound("run", id)
        if end.state != "completed":
            raise WorkflowFailed(id, end.error or end.state, state=end.state)
        codec = self._backstage.registry.result_codec(end.workflow, end.version)
        return codec.decode(end.output or "null", subject=f"result of run {id!r}")


def id_of(run: str | Handle[Any]) -> str:
    """The id that a run was given by."""
    return check_key("run id", run.id if isinstance(run, Handle) else run)
