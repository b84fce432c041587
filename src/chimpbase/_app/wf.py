"""Wf: what the code of a workflow is given. It has only durable verbs: a side effect here is a type error.

The code runs again from the top at each activation; every verb that has run before answers from the journal, so between
two verbs the code must do nothing but decide.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, Unpack, cast, overload

import msgspec

from chimpbase._app.origin import Origin
from chimpbase._app.payloads import taken
from chimpbase._app.registry import stream_of
from chimpbase._app.run_options import RunOptions, check_parent_close, read_options
from chimpbase._app.tokens import Stream
from chimpbase._app.wf_steps import WfSteps
from chimpbase._app.wf_waits import Arm, WfWaits
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.errors import PayloadError, WorkflowFailed
from chimpbase._core.names import check_key, check_name
from chimpbase._engine.activator import Continued
from chimpbase._engine.steps import Steps
from chimpbase._pg.connection import Connection
from chimpbase._store import run_commands, streams

if TYPE_CHECKING:
    from chimpbase._app.backstage import Backstage
    from chimpbase._app.definitions import Workflow

R = TypeVar("R")
T = TypeVar("T")
_any: Codec[Any] = codec_for(Any)
_log = logging.getLogger("chimpbase.workflow")


class _ChildEnd(msgspec.Struct):
    state: str
    output: msgspec.Raw
    error: str | None


class Child(Generic[R]):
    """A run that this one started. `await` it for its result; it can also stand in `wf.select`."""

    def __init__(self, wf: Wf, id: str, codec: Codec[R]) -> None:
        self._wf, self.id, self._codec = wf, id, codec

    def __await__(self) -> Generator[Any, None, R]:
        return self.result().__await__()

    async def result(self) -> R:
        """Wait until it ends; its result.

        Raises:
            WorkflowFailed: it failed or was cancelled.
        """
        return cast("R", await self._wf.wait(cast("Any", self)))

    def __chimpbase_arm__(self) -> tuple[Arm[R], str]:
        """What `wf.wait` and `wf.select` wait for."""
        return Arm(f"@child:{self.id}", self._read), f"child:{self.id}"

    def _read(self, payload: str | None) -> R:
        end = msgspec.json.decode(payload or "null", type=_ChildEnd)
        if end.state != "completed":
            raise WorkflowFailed(self.id, end.error or end.state, state=end.state)
        return self._codec.decode(bytes(end.output), subject=f"result of run {self.id!r}")


class Wf(WfWaits, WfSteps):
    """The durable side of one run. Not to be kept after the workflow returns.

    `state` is what others see of the run while it lives: assign any value of JSON types, or change what is there. It is
    stored whenever the run comes to rest, and made anew by the code in each activation.
    """

    def __init__(self, backstage: Backstage, journal: Steps, origin: Origin) -> None:
        super().__init__(journal, backstage.registry.signal)
        self._backstage, self._origin = backstage, origin
        self._undo = []
        self.state: Any = {}

    @property
    def id(self) -> str:
        """The run's id."""
        return self._journal.run.id

    @property
    def started_at(self) -> datetime:
        """When the run was started; the same in every activation."""
        return self._journal.run.started_at

    def now(self) -> datetime:
        """When the last verb was done: the same in every activation, and free. The database's clock, in UTC."""
        return self._journal.scopes.time(self._journal.scopes.prefix())

    def uuid(self) -> uuid.UUID:
        """A made-up UUID: another one at each use, the same ones in every activation. Free."""
        return uuid.UUID(bytes=self._journal.unique("uuid", 16), version=4)

    def random(self) -> float:
        """A number in [0, 1): another one at each use, the same ones in every activation. Free."""
        return int.from_bytes(self._journal.unique("random", 8)) / 2**64

    def patched(self, id: str) -> bool:
        """Whether code added as `id` applies: False while a run repeats what it did before the code was added.

        Example:
            >>> async def ship(wf: Wf, order: int) -> None:
            ...     if wf.patched("customs"):
            ...         await declare(wf, order)
            ...     await send(wf, order)
        """
        return self._journal.patched(check_name("patch", id))

    @overload
    async def start(
        self,
        workflow: Workflow[T, R],
        input: T = ...,
        *,
        id: str | None = None,
        on_parent_close: str = "cancel",
        **options: Unpack[RunOptions],
    ) -> Child[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        input: Any = None,
        *,
        id: str | None = None,
        on_parent_close: str = "cancel",
        **options: Unpack[RunOptions],
    ) -> Child[Any]: ...
    async def start(
        self,
        workflow: Any,
        input: Any = None,
        *,
        id: str | None = None,
        on_parent_close: str = "cancel",
        **options: Unpack[RunOptions],
    ) -> Child[Any]:
        """Start a run of another workflow as a child of this one. It ends with it, unless `on_parent_close="abandon"`.

        Raises:
            StepFailed: a run with that id exists, or no process has declared the workflow.
            PayloadError: the input does not fit the workflow's.
        """
        registry = self._backstage.registry
        definition = registry.workflow(workflow)
        subject, codec = f"input of workflow {definition.name!r}", definition.input_codec
        if isinstance(workflow, str) and isinstance(input, dict | list):
            input = codec.convert(input, subject=subject)
        text = codec.encode(input, subject=subject)
        journal, run = self._journal, self._journal.run
        close = check_parent_close(on_parent_close)
        wait, chosen = read_options(options, parent=run.number, on_parent_close=close)
        key = journal.scopes.peek(f"start:{definition.name}")
        round = f"{run.round}/" if run.round > 1 else ""
        child_id = f"{run.id}/{round}{key.replace('start:', '')}" if id is None else check_key("run id", id)

        async def begin(connection: Connection, _key: str) -> str:
            journal.has_family = True
            started = await run_commands.start(
                connection,
                workflow=definition.name,
                version=definition.version,
                id=child_id,
                input=text,
                delay=wait,
                headers=self._origin.headers(),
                options=chosen,
            )
            queues.append(started.queue)
            return msgspec.json.encode(child_id).decode()

        queues: list[Any] = []
        made = msgspec.json.decode(await journal.once(f"start:{definition.name}", "child", begin), type=str)
        if queues:
            engine = self._backstage.engine
            engine.later(wait.total_seconds()) if wait else engine.ready(queues)
        return Child(self, made, registry.result_codec(definition.name, definition.version))

    @overload
    async def emit(self, stream: Stream[T], payload: T) -> None: ...
    @overload
    async def emit(self, stream: str, payload: Any = None) -> None: ...
    async def emit(self, stream: Any, payload: Any = None) -> None:
        """Put something out while the run goes on: an entry of a stream, whose key is the run's id. Once, whatever
        happens: it commits together with its memory.

        `ctx.workflow.tail(run, stream)` follows one run; a `@consumer` of the stream gets the entries of each run in
        their order. Other entries in other code are no divergence: what was put out stays.

        Raises:
            PayloadError: the payload does not fit the stream's type, or cannot be stored.
        """
        token = stream_of(self._backstage.registry, stream)
        subject = f"payload of stream {token.name!r}"
        text = token.codec.encode(taken(token.codec, payload, subject, named=isinstance(stream, str)), subject=subject)
        appended: list[int] = []

        async def append(connection: Connection, _key: str) -> str:
            done = await streams.append(
                connection,
                stream=token.name,
                payloads=[text],
                keys=[self.id],
                headers=self._origin.headers(),
                expected=None,
            )
            appended.append(done.stream)
            return "null"

        await self._journal.once(f"emit:{token.name}", "emit", append)
        self._backstage.engine.appended(appended)

    async def continue_as(self, input: Any = None) -> NoReturn:
        """Begin anew with another input and an empty journal, under the same id: for a run that goes on for ever.

        Signals that were not consumed are kept. Never returns.
        """
        definition = self._backstage.registry.workflows[self._journal.run.workflow, self._journal.run.version]
        text = definition.input_codec.encode(input, subject=f"input of workflow {definition.name!r}")
        if self._journal.closed:
            await self._journal.never()
        raise Continued(text)

    def view(self) -> str | None:
        """The state as JSON text, to be stored."""
        if self.state == {}:
            return None
        try:
            return _any.encode(self.state, subject="wf.state")
        except PayloadError as error:
            _log.error("run %s: its state cannot be stored and is not shown: %s", self.id, error)
            return None
