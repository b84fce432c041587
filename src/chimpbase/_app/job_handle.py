"""Job handles: the id of a job, with which one can follow it.

A handle is an int, so it goes wherever an id goes: into a column, a payload, a comparison. What it can do needs the
process that made it; written down and read again it is a plain id, of which `ctx.queue.handle` makes a handle again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from chimpbase._app.job_status import JobStatus, errors_of, status_of
from chimpbase._app.waiter import Waiter
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import AttemptTimeout, JobCancelled, JobFailed, NotFound, UsageError
from chimpbase._core.explanation import Explanation
from chimpbase._core.values import JobId
from chimpbase._store.following import FollowedJob

if TYPE_CHECKING:
    from chimpbase._app.queue_operations import CancelAnswer
    from chimpbase._app.stage import Stage
    from chimpbase._app.unit import Frame

R = TypeVar("R")
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 1.0
_ANY: Codec[Any] = codec_for(Any)


class Operator(Protocol):
    """A client of queues, which acts in one transaction."""

    async def cancel(self, job: Any, *, reason: str | None = None) -> CancelAnswer: ...
    async def explain(self, job: Any) -> Explanation: ...
    async def retry(self, job: Any) -> Literal["redriven", "hurried"]: ...


class Follower:
    """What the handles of one call share: where to look, the transaction they were made in, who acts on them, how
    results are read.
    """

    __slots__ = ("codec", "frame", "operator_in", "stage")

    def __init__(
        self, stage: Stage, frame: Frame, operator_in: Callable[[Frame], Operator], codec: Codec[Any] | None
    ) -> None:
        self.stage, self.frame, self.operator_in, self.codec = stage, frame, operator_in, codec

    @asynccontextmanager
    async def acting(self) -> AsyncGenerator[Operator]:
        """Who acts on the job: in the transaction that made the handle while it is open, else in one of its own."""
        if self.frame.unit.opened:
            yield self.operator_in(self.frame)
            return
        async with self.stage.unit(self.frame.unit.title) as unit:
            yield self.operator_in(unit)

    async def look(self, id: JobId) -> FollowedJob | None:
        """The job, as the transaction that made the handle sees it while it is open; else as it is committed."""
        return await self.stage.job(id, self.frame if self.frame.unit.opened else None)

    async def ended(self, id: JobId) -> FollowedJob:
        """The job, once it has ended. Woken when that happens here; looks every now and then for when it does not."""
        look_s = _FIRST_LOOK_S
        with self.stage.engine.watch_job(id) as ended:
            while True:
                ended.clear()
                found = await self.stage.job(id, None)
                if found is None:
                    raise NotFound("job", int(id))
                if found.state not in ("waiting", "running"):
                    return found
                try:
                    async with asyncio.timeout(look_s):
                        await ended.wait()
                except TimeoutError:
                    look_s = min(_LONGEST_LOOK_S, look_s * 2)

    async def result(self, id: JobId, timeout: timedelta | float | None) -> Any:
        """See `JobHandle.result`."""
        limit_s = None if timeout is None else seconds(timeout, subject="timeout").total_seconds()
        if self.frame.unit.transactional and self.frame.unit.opened:
            raise UsageError(
                f"Job {int(id)} exists once {self.frame.unit.title} has committed, so its result cannot be awaited in "
                "there. Do it after the transaction."
            )
        try:
            async with asyncio.timeout(limit_s):
                found = await self.ended(id)
        except TimeoutError as error:
            raise AttemptTimeout(f"job {int(id)} has not ended within {limit_s:g} s") from error
        return self._read(id, found)

    def _read(self, id: JobId, found: FollowedJob) -> Any:
        errors = errors_of(found)
        last = f"{errors[-1].error}: {errors[-1].message}" if errors else None
        if found.state == "cancelled":
            raise JobCancelled(int(id), last)
        if found.state == "dead":
            raise JobFailed(int(id), str(found.reason), last)
        if found.result is None:
            return None
        worker = self.stage.registry.workers.get(found.queue)
        codec = self.codec or (worker.results if worker else None) or _ANY
        return codec.decode(found.result, subject=f"result of job {int(id)}")


class JobHandle(int, Generic[R]):
    """The id of a job, and what came of it. `R` is what its worker returns."""

    follower: Follower

    @property
    def id(self) -> int:
        """The id as a plain number."""
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    async def result(self, *, timeout: timedelta | float | None = None) -> R:
        """Wait until the job has ended; what its worker returned, None when it returned nothing.

        `timeout` is in seconds if a number; None waits for as long as it takes. Results are kept with the history of
        the job, for as long as its queue keeps that.

        Raises:
            JobFailed: the job is dead.
            JobCancelled: it was cancelled.
            NotFound: there is no such job, or no history of it.
            AttemptTimeout: it has not ended in time. It goes on.
            UsageError: the transaction that enqueued it has not committed yet.
        """
        return await self.follower.result(JobId(self), timeout)

    async def status(self) -> JobStatus:
        """The job as it stands.

        Raises:
            NotFound: there is no such job, or no history of it.
        """
        found = await self.follower.look(JobId(self))
        if found is None:
            raise NotFound("job", int(self))
        return status_of(JobId(self), found)

    async def cancel(self, *, reason: str | None = None) -> CancelAnswer:
        """Cancel the job: in the transaction that enqueued it while that is open, else in one of its own.

        See `ctx.queue.cancel`, which tells what the answer means and what it raises.
        """
        async with self.follower.acting() as operator:
            return await operator.cancel(self, reason=reason)

    async def retry(self) -> Literal["redriven", "hurried"]:
        """Run the job now, if it is dead or waits for its time; in which transaction, see `cancel`.

        Raises:
            NotFound: it is neither.
        """
        async with self.follower.acting() as operator:
            return await operator.retry(self)

    async def explain(self) -> Explanation:
        """Why the job is not running; see `ctx.queue.explain`."""
        async with self.follower.acting() as operator:
            return await operator.explain(self)


class SyncJobHandle(int, Generic[R]):
    """The blocking face of `JobHandle`, whose verbs mean the same."""

    follower: Follower
    wait: Waiter

    @property
    def id(self) -> int:
        """The id as a plain number."""
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def result(self, *, timeout: timedelta | float | None = None) -> R:
        """See `JobHandle.result`."""
        return self.wait(self.follower.result(JobId(self), timeout))

    def status(self) -> JobStatus:
        """See `JobHandle.status`."""
        return self.wait(self._async().status())

    def cancel(self, *, reason: str | None = None) -> CancelAnswer:
        """See `JobHandle.cancel`."""
        return self.wait(self._async().cancel(reason=reason))

    def retry(self) -> Literal["redriven", "hurried"]:
        """See `JobHandle.retry`."""
        return self.wait(self._async().retry())

    def explain(self) -> Explanation:
        """See `JobHandle.explain`."""
        return self.wait(self._async().explain())

    def _async(self) -> JobHandle[R]:
        return handle_of(JobId(self), self.follower)


def handle_of(id: JobId, follower: Follower) -> JobHandle[Any]:
    """A handle of that job."""
    handle: JobHandle[Any] = JobHandle(id)
    handle.follower = follower
    return handle


def sync_handle(handle: JobHandle[R], wait: Waiter) -> SyncJobHandle[R]:
    """The blocking face of a handle."""
    twin: SyncJobHandle[R] = SyncJobHandle(handle)
    twin.follower, twin.wait = handle.follower, wait
    return twin
