"""Coalescer: group commit. What several tasks ask for at one time goes to the database in one statement.

A lane that is free takes all that waits, or its part of it where several are free and there is much: the callers of one
part go on while the server has the other, and do not all wait for one statement. There is no timer, so a single caller
waits no longer than for the statement alone, and under load the batches grow by themselves.

Invariant: each caller gets the answer to its own item, or its own error; neither another caller's bad item nor its
cancellation reaches it. Deliberately absent: retrying what may succeed later, which is the callers' affair.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from chimpbase._core.errors import ConstraintViolation, QueryError, UsageError

T = TypeVar("T")
R = TypeVar("R")
_Batch: TypeAlias = list[tuple[T, "asyncio.Future[R]"]]


class Coalescer(Generic[T, R]):
    """Used in one event loop."""

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        lanes: int = 1,
        least_part: int | None = None,
    ) -> None:
        """`flush` answers its items one to one, or does nothing at all and raises; `lanes` of it run at a time.

        With `least_part`, what waits is parted among the free lanes, in no parts smaller than that. While one of them
        runs, another begins only with as much again: else the parts would grow ever smaller, and a statement has its
        price.
        """
        self._flush = flush
        self._max_batch, self._least_part = max_batch, least_part
        self._free_lanes = self._most_lanes = lanes
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = self._opening = False
        self._running = 0  # items in flushes
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, item: T) -> asyncio.Future[R]:
        """The future answer for `item`; await it. Cancelling it before its batch is sent takes the item back.

        Raises:
            UsageError: the coalescer is closed.
        """
        if self._closed:
            raise UsageError("This program is stopping and takes no more work.")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if self._free_lanes and (self._least_part is None or self._wants_lane(self._least_part)):
            self._open_lane(loop)
        return answer

    async def close(self) -> None:
        """Flush what waits and take nothing more."""
        self._closed = True
        while self._lanes:
            await asyncio.wait(self._lanes)

    def _wants_lane(self, least_part: int) -> bool:
        return not self._opening and (
            self._free_lanes == self._most_lanes or len(self._waiting) >= max(least_part, self._running)
        )

    def _open_lane(self, loop: asyncio.AbstractEventLoop) -> None:
        # It begins in the next turn of the loop: all who submit in this turn are in its first batch, or its parts.
        self._free_lanes -= 1
        self._opening = True
        lane = loop.create_task(self._run_lane(loop))
        self._lanes.add(lane)
        lane.add_done_callback(self._lanes.discard)

    async def _run_lane(self, loop: asyncio.AbstractEventLoop) -> None:
        self._opening = False
        try:
            while batch := self._next_batch():
                if self._least_part is not None and self._free_lanes and self._wants_lane(self._least_part):
                    self._open_lane(loop)
                self._running += len(batch)
                try:
                    await self._serve(batch)
                finally:
                    self._running -= len(batch)
                    for _, answer in batch:  # only when this task was cancelled, or the program is being torn down
                        if not answer.done():
                            answer.cancel()
        finally:
            self._free_lanes += 1

    def _next_batch(self) -> _Batch[T, R]:
        batch: _Batch[T, R] = []
        waiting, most = self._waiting, self._max_batch
        if self._least_part is not None and self._free_lanes and len(waiting) >= 2 * self._least_part:
            most = min(most, max(self._least_part, -(-len(waiting) // (self._free_lanes + 1))))
        while waiting and len(batch) < most:
            entry = waiting.popleft()
            if not entry[1].done():  # else its caller was cancelled
                batch.append(entry)
        return batch

    async def _serve(self, batch: _Batch[T, R]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except (QueryError, ConstraintViolation) as error:
            if len(batch) == 1:
                _refuse(batch, error)
            else:
                # Halving finds a bad item among n in about 2 log n statements, and spares the others.
                middle = len(batch) // 2
                await self._serve(batch[:middle])
                await self._serve(batch[middle:])
        except Exception as error:  # whatever it is, those who wait must hear of it
            _refuse(batch, error)
        else:
            if len(results) != len(batch):
                _refuse(batch, UsageError(f"A flush of {len(batch)} items gave {len(results)} answers. Give one each."))
                return
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)


def _refuse(batch: _Batch[T, R], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(_own(error))


def _own(error: Exception) -> Exception:
    """A copy for one caller: raised in several tasks, one object would collect all their tracebacks and notes."""
    try:
        twin = copy.copy(error)
    except TypeError:  # its class cannot be made from its arguments
        return error
    twin.__cause__ = error.__cause__
    return twin
