"""Crew: child processes for handlers that keep a processor busy, `@worker(..., executor="process")`.

A member runs one job at a time. Its ctx is a face of the real one, which stays here with its transaction: each verb is
asked for over a pipe, so a job in a child commits with its writes like any other. A member that dies fails the attempt
it ran and nothing else; one that takes too long can be ended, which a thread cannot.

Invariant: a member leaves when this process does, whatever ends it: the kernel closes its lifeline.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import reduce
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chimpbase._app.crew_member import PLACES, Answer, Begun, Call, Errand, Failure, Line, Registered, Version, storable
from chimpbase._app.definitions import Step, Worker
from chimpbase._app.invoke import in_thread
from chimpbase._app.sync import SyncCtx
from chimpbase._core.errors import AttemptError, NotRegistered
from chimpbase._core.values import ClaimedJob
from chimpbase._engine.attempt import Attempt

if TYPE_CHECKING:
    from chimpbase._app.ctx import Ctx
    from chimpbase._app.registry import Registry
    from chimpbase._app.stage import Stage

_FAREWELL_S = 2.0
_LONGEST_START_S = 60.0


class Crew:
    """The members of one runtime: started when they are first needed, kept for the next job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._all: set[Member] = set()

    def hire(self) -> Member:
        """A member that is free, or a new one. Give it back with `release`."""
        with self._lock:
            member = self._idle.pop() if self._idle else Member()
            self._all.add(member)
        return member

    def release(self, member: Member) -> None:
        """It has nothing to do any more. One that has ended is forgotten."""
        with self._lock:
            if member.alive:
                self._idle.append(member)
            else:
                self._all.discard(member)

    def stop(self) -> None:
        """End all members; what they run fails."""
        with self._lock:
            members, self._all, self._idle = list(self._all), set(), []
        for member in members:
            member.end()


class Member:
    """One child process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None
        self._lifeline = -1
        self._ended = False

    @property
    def alive(self) -> bool:
        return not self._ended and self._process is not None and self._process.poll() is None

    def run(self, ctx: SyncCtx, errand: Errand, registry: Registry, on_begun: Callable[[], object]) -> Any:
        """Run a job's handler in the child and serve its ctx from here. Blocks; what the handler raises is raised.

        `on_begun` is called, in this thread, when the child has imported what it needs.

        Raises:
            AttemptError: the child ended, or what it raised cannot be brought over.
        """
        line = self._line or self._start()
        try:
            line.send(errand)
            while True:
                message: Line = line.recv()
                match message:
                    case Begun():
                        on_begun()
                    case Call():
                        line.send(_served(ctx, message, registry))
                    case Answer(value=value):
                        return value
                    case Failure(error=error):
                        raise error
                    case Errand():
                        raise AssertionError("a member sends no errands")
        except (EOFError, OSError) as error:
            how = self.end()
            raise AttemptError(f"the process that ran {errand.qualname} {how}") from error

    def end(self) -> str:
        """End the child at once; its end in words. Safe from any thread, and more than once."""
        self._ended = True
        process = self._process
        if process is None:
            return "never started"
        if process.poll() is None:
            process.kill()
        try:
            code = process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            return "does not end"
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        hear, self._lifeline = os.pipe()
        # not with `-m`: what it defines would exist twice there, as `__main__` and under its own name
        program = "from chimpbase._app.crew_member import main; main()"
        arguments = [sys.executable, "-c", program, str(theirs.fileno()), str(hear)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        try:
            self._process = subprocess.Popen(  # noqa: S603
                arguments, pass_fds=(theirs.fileno(), hear), env=environment, stdin=subprocess.DEVNULL
            )
        finally:
            theirs.close()
            os.close(hear)
        self._line = ours
        if self._ended:  # it was ended while it started
            self.end()
        return ours


async def run_in_child(crew: Crew, stage: Stage, definition: Worker[Any, Any], ctx: Ctx, attempt: Attempt) -> Any:
    """Run a worker's function on a job in a child, which is ended when this is cancelled.

    The time in which a new child starts and imports the app is not in the attempt's timeout.
    """
    member, loop = crew.hire(), asyncio.get_running_loop()
    go_on = attempt.hold_clock(most_s=_LONGEST_START_S)

    def on_begun() -> None:
        loop.call_soon_threadsafe(go_on)

    try:
        return await in_thread(stage, member.run, ctx, (errand(definition, attempt.job), stage.registry, on_begun), {})
    except asyncio.CancelledError:
        member.end()
        raise
    finally:
        crew.release(member)


def errand(definition: Worker[Any, Any], job: ClaimedJob) -> Errand:
    """What a member has to be told to run this definition on this job."""
    function = definition.function
    return Errand(function.__module__, function.__code__.co_filename, function.__qualname__, job.payload, job.headers)


def _served(ctx: SyncCtx, call: Call, registry: Registry) -> Answer | Failure:
    try:
        start: Any = ctx
        names = call.path
        if call.place is not None:
            known = registry.tokens(PLACES[names[0]])
            if call.place.typed and call.place.name not in known:
                # by its name alone it would hold values of any type
                raise NotRegistered(PLACES[names[0]], call.place.name, list(known))
            start, names = getattr(ctx, names[0])(call.place.name), names[1:]
        found: Any = reduce(getattr, names, start)
        if not call.called:
            return Answer(storable(found))
        args = [_known(value, registry) for value in call.args]
        return Answer(storable(found(*args, **{name: _known(value, registry) for name, value in call.kwargs.items()})))
    except Exception as error:
        return Failure.of(error)


def _known(value: Any, registry: Registry) -> Any:
    if isinstance(value, Registered):
        here: Mapping[str, Any] = registry.tokens("stream")
        if value.kind == "step":
            here = {one.name: one for one in registry.definitions() if isinstance(one, Step)}
        if value.name not in here:
            raise NotRegistered(value.kind, value.name, list(here))
        return here[value.name]
    if not isinstance(value, Version):
        return value
    known = registry.workflows.get((value.workflow, value.number))
    if known is None:
        names = [f"{name}@{number}" for name, number in registry.workflows]
        raise NotRegistered("workflow", f"{value.workflow}@{value.number}", names)
    return known
