"""The workflow client of ctx: start runs, signal and steer them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

import msgspec

from chimpbase._app.run_handle import Handle
from chimpbase._app.run_options import RunOptions, read_options
from chimpbase._app.run_reader import RunReader, id_of
from chimpbase._app.run_views import Run as Run
from chimpbase._app.tokens import Signal, Update
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import AttemptTimeout, UpdateRefused, UsageError
from chimpbase._core.names import check_key
from chimpbase._core.text import scrub
from chimpbase._store import run_commands, run_queries

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow

R = TypeVar("R")
T = TypeVar("T")
_any: Codec[Any] = codec_for(Any)
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.25
_REASON_BYTES = 1000


class WorkflowClient(RunReader):
    """Starts and steers runs in the transaction of this call. A run is given by its id or its handle."""

    @overload
    async def start(
        self,
        workflow: Workflow[T, R],
        input: T = ...,
        *,
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Handle[R]: ...
    @overload
    async def start(
        self, workflow: str, input: Any = None, *, id: str | None = None, **options: Unpack[RunOptions]
    ) -> Handle[Any]: ...
    async def start(
        self, workflow: Any, input: Any = None, *, id: str | None = None, **options: Unpack[RunOptions]
    ) -> Handle[Any]:
        """Start a run: it exists if and only if this transaction commits. Its id is given or made up.

        By name the highest registered version starts. `delay` is in seconds if a number; of several runs that are ready
        the lowest `priority` goes first; `attributes` (an object of JSON types) are what it can be found by. If a run
        with that id exists, `on_conflict="use_existing"` answers with that one, whatever it is doing, and "replace"
        cancels it at once and starts anew.

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
        wait, chosen = read_options(options)
        engine, alone = self._backstage.engine, wait is None and not self._frame.unit.transactional
        if alone and await self._backstage.start_run(definition, run_id, text, self._origin.headers(), options):
            return Handle(self, run_id)
        async with self._frame.statement() as connection:
            started = await run_commands.start(
                connection,
                workflow=definition.name,
                version=definition.version,
                id=run_id,
                input=text,
                delay=wait,
                headers=self._origin.headers(),
                options=chosen,
            )
            wait_s, queues = (wait.total_seconds() if wait else 0.0), [started.queue, *started.queues]
            self._frame.after_commit.append(lambda: engine.later(wait_s) if wait_s else engine.ready(queues))
        return Handle(self, run_id)

    def handle(self, id: str) -> Handle[Any]:
        """The handle of a run by its id. Asks nothing, so there may be no such run."""
        return Handle(self, check_key("run id", id))

    async def signal_with_start(
        self,
        workflow: Workflow[T, R] | str,
        input: Any = None,
        *,
        id: str,
        signal: Signal[Any] | str,
        payload: Any = None,
        dedupe: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Handle[R]:
        """Start a run unless one with that id exists, and send it a signal, as one.

        Raises:
            WrongState: the run with that id has ended.
            PayloadError: the input or the payload does not fit.
        """
        options["on_conflict"] = "use_existing"
        handle = await self.start(cast("Any", workflow), input, id=id, **options)
        await self.signal(handle, cast("Any", signal), payload, dedupe=dedupe)
        return handle

    @overload
    async def signal(
        self, run: str | Handle[Any], signal: Signal[T], payload: T, *, dedupe: str | None = None
    ) -> None: ...
    @overload
    async def signal(
        self, run: str | Handle[Any], signal: str, payload: Any = None, *, dedupe: str | None = None
    ) -> None: ...
    async def signal(
        self, run: str | Handle[Any], signal: Any, payload: Any = None, *, dedupe: str | None = None
    ) -> None:
        """Send a signal to a run. It is kept until the run waits for it, and each is consumed once, in commit order.

        Of signals to one run with the same `dedupe` key the first counts, for as long as the run is kept.

        Raises:
            NotFound: no run with that id.
            WrongState: the run has ended.
            PayloadError: the payload does not fit the signal's type, or cannot be stored. No SQL was sent.
        """
        token = self._backstage.registry.signal(signal)
        text = token.codec.encode(payload, subject=f"payload of signal {token.name!r}")
        key = None if dedupe is None else check_key("dedupe key", dedupe)
        id = id_of(run)
        async with self._frame.statement() as connection:
            queue = await run_commands.signal(connection, id=id, name=token.name, payload=text, dedupe=key)
            self._wake(queue)

    async def complete(self, token: str, value: Any = None) -> None:
        """Complete a callback with a value of JSON types. Once: a second time changes nothing.

        Raises:
            NotFound: nobody made that token.
            WrongState: the run has ended.
        """
        text = _any.encode(value, subject="value of the callback")
        check_key("callback token", token)
        async with self._frame.statement() as connection:
            self._wake(await run_commands.complete(connection, token=token, payload=text))

    async def update(
        self,
        run: str | Handle[Any],
        update: Update[T, R],
        payload: T,
        *,
        timeout: timedelta | float | None = None,
    ) -> R:
        """Ask a running workflow to change something; what its handler answers. In a transaction of its own.

        It is answered when the workflow next waits. `timeout` is in seconds if a number; the update stands anyway.

        Raises:
            UpdateRefused: its validator or handler raised.
            NotFound: no run with that id.
            WrongState: the run has ended.
            AttemptTimeout: it has not answered in time.
        """
        if not isinstance(cast("object", update), Update):
            raise UsageError(f"{update!r:.40} is no update: give its token, an Update.")
        text = update.codec.encode(payload, subject=f"payload of update {update.name!r}")
        id, request = id_of(run), self._backstage.new_id()
        limit_s = None if timeout is None else seconds(timeout, subject="timeout").total_seconds()
        message = msgspec.json.encode({"id": request, "name": update.name, "value": msgspec.Raw(text.encode())})
        name = f"@update:{update.name}"
        async with self._backstage.unit(f"update {update.name!r}") as unit, unit.root.statement() as connection:
            queue = await run_commands.signal(connection, id=id, name=name, payload=message.decode())
        if queue is not None:
            self._backstage.engine.ready([queue])
        try:
            async with asyncio.timeout(limit_s):
                result, error = await self._reply(request, id)
        except TimeoutError as late:
            raise AttemptTimeout(f"run {id!r} has not answered within {limit_s:g} s") from late
        if error is not None:
            raise UpdateRefused(id, update.name, error)
        return update.result_codec.decode(result or "null", subject=f"result of update {update.name!r}")

    async def cancel(self, run: str | Handle[Any], reason: str = "cancelled by hand", *, force: bool = False) -> None:
        """Cancel a run: its code gets `asyncio.CancelledError` where it is, may clean up in `wf.shield`, and what it
        noted with `wf.undo` is undone. Its children are cancelled with it. With `force` it ends at once, unheard.

        Raises:
            NotFound: no run with that id.
            WrongState: it has ended.
        """
        id = id_of(run)
        async with self._frame.statement() as connection:
            text = scrub(str(reason), limit_bytes=_REASON_BYTES)
            number, queues = await run_commands.cancel(connection, id=id, reason=text, force=bool(force))
            engine = self._backstage.engine
            self._frame.after_commit.append(lambda: engine.ready(queues))
            self._frame.after_commit.append(lambda: engine.disturb(number, cancel=True, reason=text))

    async def pause(self, run: str | Handle[Any]) -> None:
        """Let a run begin nothing new until it is resumed; a step that runs may end. Signals are kept meanwhile.

        Raises:
            NotFound: no run with that id.
            WrongState: it has ended, or is blocked.
        """
        id = id_of(run)
        async with self._frame.statement() as connection:
            number, _ = await run_commands.pause(connection, id=id, pause=True)
            engine = self._backstage.engine
            self._frame.after_commit.append(lambda: engine.disturb(number, cancel=False))

    async def resume(self, run: str | Handle[Any]) -> None:
        """Let a paused run go on; a step that had used up its attempts gets them anew.

        Raises:
            NotFound: no run with that id.
            WrongState: it has ended, or is blocked.
        """
        async with self._frame.statement() as connection:
            _, queue = await run_commands.pause(connection, id=id_of(run), pause=False)
            self._wake(queue)

    async def retry(self, run: str | Handle[Any]) -> None:
        """Let a blocked run go on with the code as it is now, or a failed one repeat the step that failed.

        Raises:
            NotFound: no run with that id.
            WrongState: it is neither blocked nor failed.
        """
        async with self._frame.statement() as connection:
            self._wake((await run_commands.rewind(connection, id=id_of(run), step=None))[1])

    async def rewind(self, run: str | Handle[Any], *, to: str) -> None:
        """Do everything from a step on once more (`charge#1`; see `history`). What those steps did is not taken back.

        Raises:
            NotFound: no such run, or it has done no such step.
        """
        id, step = id_of(run), check_key("step", to)
        async with self._frame.statement() as connection:
            self._wake((await run_commands.rewind(connection, id=id, step=step))[1])

    async def fork(self, run: str | Handle[R], *, at: str, id: str | None = None) -> Handle[R]:
        """Start another run with the same input and all that this one had done before a step. This one is left alone.

        Raises:
            NotFound: no such run, or it has done no such step.
            AlreadyStarted: a run with the new id exists.
        """
        fork = self._backstage.new_id() if id is None else check_key("run id", id)
        old, step = id_of(run), check_key("step", at)
        async with self._frame.statement() as connection:
            self._wake(await run_commands.fork(connection, id=old, step=step, fork=fork))
        return Handle(self, fork)

    def _wake(self, queue: Any) -> None:
        if queue is not None:
            engine = self._backstage.engine
            self._frame.after_commit.append(lambda: engine.ready([queue]))

    async def _reply(self, request: str, run: str) -> tuple[str | None, str | None]:
        look_s = _FIRST_LOOK_S
        while True:
            async with self._backstage.unit("reply of an update") as unit, unit.root.statement() as connection:
                reply = await run_queries.find_reply(connection, id=request)
                status = None if reply else await run_queries.get(connection, id=run)
            if reply is not None:
                return reply
            if status is None or status.finished_at is not None:
                return None, f"the run ended as {status.state if status else 'nothing'} before it answered"
            await asyncio.sleep(look_s)
            look_s = min(_LONGEST_LOOK_S, look_s * 2)
