"""The workflow client of ctx: start runs, signal them, look at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from chimpbase._app.tokens import Signal
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.durations import seconds
from chimpbase._core.errors import AttemptTimeout, NotFound, WorkflowFailed
from chimpbase._core.names import check_key
from chimpbase._core.values import RunState, RunStatus
from chimpbase._store import runs

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.01, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run is doing. `waits` names the signals it waits for; `wake_at` is when it goes on by itself.

    `input` and `output` are of JSON types. `output` is there when completed, `error` when failed or blocked.
    """

    id: str
    workflow: str
    version: int
    status: RunState
    waits: tuple[str, ...]
    wake_at: datetime | None
    started_at: datetime
    finished_at: datetime | None
    input: Any
    output: Any
    error: str | None


class WorkflowClient:
    """Starts and signals runs in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @overload
    async def start(
        self,
        workflow: Workflow[T, Any],
        input: T = ...,
        *,
        id: str | None = None,
        delay: timedelta | float | None = None,
    ) -> str: ...
    @overload
    async def start(
        self, workflow: str, input: Any = None, *, id: str | None = None, delay: timedelta | float | None = None
    ) -> str: ...
    async def start(
        self, workflow: Any, input: Any = None, *, id: str | None = None, delay: timedelta | float | None = None
    ) -> str:
        """Start a run: it exists if and only if this transaction commits. Its id, given or made up.

        By name the highest registered version starts. `delay` is in seconds if a number.

        Raises:
            AlreadyStarted: a run with that id exists.
            NotRegistered: no workflow of that name.
            PayloadError: the input does not fit the workflow's, or cannot be stored. No SQL was sent.
        """
        definition = self._backstage.registry.workflow(workflow)
        subject = f"input of workflow {definition.name!r}"
        codec = definition.input_codec
        if isinstance(workflow, str) and isinstance(input, dict | list):
            input = codec.convert(input, subject=subject)
        text = codec.encode(input, subject=subject)
        run_id = self._backstage.new_id() if id is None else check_key("run id", id)
        wait = None if delay is None else seconds(delay, subject="delay")
        engine = self._backstage.engine
        async with self._frame.statement() as connection:
            queue, _ = await runs.start(
                connection,
                workflow=definition.name,
                version=definition.version,
                id=run_id,
                input=text,
                delay=wait,
                headers=self._origin.headers(),
            )
            wait_s = wait.total_seconds() if wait else 0.0
            self._frame.after_commit.append(lambda: engine.later(wait_s) if wait_s else engine.ready([queue]))
        return run_id

    @overload
    async def signal(self, id: str, signal: Signal[T], payload: T) -> None: ...
    @overload
    async def signal(self, id: str, signal: str, payload: Any = None) -> None: ...
    async def signal(self, id: str, signal: Any, payload: Any = None) -> None:
        """Send a signal to a run. It is kept until the run waits for it, and each is consumed once, in commit order.

        Raises:
            NotFound: no run with that id.
            WrongState: the run has ended.
            PayloadError: the payload does not fit the signal's type, or cannot be stored. No SQL was sent.
        """
        token = self._backstage.registry.signal(signal)
        text = token.codec.encode(payload, subject=f"payload of signal {token.name!r}")
        check_key("run id", id)
        async with self._frame.statement() as connection:
            queue = await runs.signal(connection, id=id, name=token.name, payload=text)
            if queue is not None:
                self._frame.after_commit.append(lambda: self._backstage.engine.ready([queue]))

    async def get(self, id: str) -> Run:
        """What a run is doing, as this transaction sees it.

        Raises:
            NotFound: no run with that id.
        """
        check_key("run id", id)
        async with self._frame.statement() as connection:
            status = await runs.get(connection, id=id)
        return _run(id, status)

    async def result(self, id: str, *, timeout: timedelta | float | None = None) -> Any:
        """Wait until a run ends; its result. Sees only what is committed, so never await a run started in this call.

        `timeout` is in seconds if a number; None waits for as long as it takes.

        Raises:
            NotFound: no run with that id.
            WorkflowFailed: it failed, or is blocked.
            AttemptTimeout: it has not ended in time.
        """
        check_key("run id", id)
        limit_s = None if timeout is None else seconds(timeout, subject="timeout").total_seconds()
        with self._backstage.watch(id) as ended:
            try:
                async with asyncio.timeout(limit_s):
                    status = await self._ended(id, ended)
            except TimeoutError as error:
                raise AttemptTimeout(f"run {id!r} has not ended within {limit_s:g} s") from error
        if status.error is not None:
            raise WorkflowFailed(id, status.error)
        codec = self._backstage.registry.result_codec(status.workflow, status.version)
        return codec.decode(status.output or "null", subject=f"result of run {id!r}")

    async def _ended(self, id: str, ended: asyncio.Event) -> RunStatus:
        look_s = _FIRST_LOOK_S
        while True:
            ended.clear()
            status = await self._backstage.run_status(id)
            if status is None:
                raise NotFound("run", id)
            if status.finished_at is not None or status.state == "blocked":
                return status
            try:
                async with asyncio.timeout(look_s):
                    await ended.wait()
            except TimeoutError:
                look_s = min(_LONGEST_LOOK_S, look_s * 2)


def _run(id: str, status: RunStatus | None) -> Run:
    if status is None:
        raise NotFound("run", id)
    return Run(
        id=status.id,
        workflow=status.workflow,
        version=status.version,
        status=status.state,
        waits=status.waits,
        wake_at=status.wake_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        input=msgspec.json.decode(status.input),
        output=None if status.output is None else msgspec.json.decode(status.output),
        error=status.error,
    )


class SyncWorkflow:
    """The blocking face of `WorkflowClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], WorkflowClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def start(
        self,
        workflow: Workflow[T, Any],
        input: T = ...,
        *,
        id: str | None = None,
        delay: timedelta | float | None = None,
    ) -> str: ...
    @overload
    def start(
        self, workflow: str, input: Any = None, *, id: str | None = None, delay: timedelta | float | None = None
    ) -> str: ...
    def start(self, workflow: Any, input: Any = None, **options: Any) -> str:
        return self._wait(self._client().start(workflow, input, **options))

    @overload
    def signal(self, id: str, signal: Signal[T], payload: T) -> None: ...
    @overload
    def signal(self, id: str, signal: str, payload: Any = None) -> None: ...
    def signal(self, id: str, signal: Any, payload: Any = None) -> None:
        self._wait(self._client().signal(id, signal, payload))

    def get(self, id: str) -> Run:
        return self._wait(self._client().get(id))

    def result(self, id: str, *, timeout: timedelta | float | None = None) -> Any:
        return self._wait(self._client().result(id, timeout=timeout))
