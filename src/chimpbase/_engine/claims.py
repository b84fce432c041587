"""What this process has leased, as those who lease see it: the claimer, and the gates of queues with limits.

Invariant: `holdings` has every (id, attempt) that runs here, waits for a slot here, or is about to be settled. So what
the database says this process holds beyond that is a stray: the answer of its claim was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from operator import attrgetter

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ClaimedJob, JobId, ProcessId
from chimpbase._engine.finisher import Finisher
from chimpbase._pg.db import Db
from chimpbase._store import jobs, processes

#: Admissions of this process at the same time: one waits for its gate without keeping the engine's connections busy.
_TURNS = 2
_fence, _is_suspect = attrgetter("id", "attempt"), attrgetter("suspect")


class Claims:
    """Shared by everybody of this process who leases jobs. `open` until the process stops.

    A claim whose answer was lost may have leased jobs that nobody here knows of, and this process lives on. So after a
    failed claim, and `doubt_s` later, what the process holds is compared with `holdings`, and the rest given back.
    """

    def __init__(
        self,
        db: Db,
        finisher: Finisher,
        *,
        process: Callable[[], ProcessId],
        holdings: set[tuple[JobId, int]],
        doubt_s: float,
        on_doubt: Callable[[], None],
    ) -> None:
        self.open = True
        self.process = process
        self._db, self._finisher, self._holdings = db, finisher, holdings
        self._doubt_s, self._on_doubt = doubt_s, on_doubt
        self._suspect, self._asking = False, False
        self._looks: list[float] = []
        self._turns = asyncio.Semaphore(_TURNS)
        self._watched: dict[tuple[JobId, int], Callable[[], None]] = {}
        finisher.watch_settled(self._settled)

    @property
    def in_doubt_s(self) -> float | None:
        """Seconds until strays are to be looked for; None when nothing is in doubt."""
        return max(0.0, self._looks[0] - asyncio.get_running_loop().time()) if self._looks else None

    @property
    def has_turn(self) -> bool:
        """Whether `turn` would not have to wait."""
        return not self._turns.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """From before an admission is asked for until its jobs are among the holdings."""
        async with self._turns:
            yield

    @contextmanager
    def asking(self) -> Generator[bool]:
        """Around the statement that leases: whether it may bring a suspect. A process runs one of those at a time."""
        may = not self._suspect and not self._asking
        self._asking = self._asking or may
        try:
            yield may
        except DatabaseError:
            # and again later: the server may have the lost claim still before it, in a socket it has not read
            now = asyncio.get_running_loop().time()
            self._looks = [now, now + self._doubt_s]
            self._on_doubt()
            raise
        finally:
            if may:
                self._asking = False

    def took(self, claimed: Sequence[ClaimedJob], *, on_freed: Callable[[], None] | None = None) -> None:
        """These are held by this process from now on; `on_freed` is called for each when it is no longer."""
        self._holdings.update(map(_fence, claimed))
        self._suspect = self._suspect or any(map(_is_suspect, claimed))
        if on_freed is not None:
            self._watched.update(dict.fromkeys(map(_fence, claimed), on_freed))

    def give_back(self, waiting: Iterable[ClaimedJob]) -> None:
        """Jobs that wait for a slot shall run elsewhere."""
        for job in waiting:
            self._finisher.give_back(job)
            if job.suspect:
                self._suspect = False

    def forget(self, lost: Iterable[ClaimedJob]) -> None:
        """Jobs whose lease is gone with the life of this process that leased them."""
        for job in lost:
            self._holdings.discard((job.id, job.attempt))
            self._watched.pop((job.id, job.attempt), None)

    def suspect_ended(self) -> None:
        """The suspect that ran here has not killed its process, or its lease is gone."""
        self._suspect = False

    def ended(self, job: ClaimedJob) -> None:
        """An attempt is over. Its end is committed already when it settled itself."""
        if self._watched and (job.id, job.attempt) not in self._holdings:
            self._settled([(job.id, job.attempt)])

    async def look_for_strays(self) -> int:
        """Give back what this process holds and nobody here knows, if it is time; how many."""
        now = asyncio.get_running_loop().time()
        if not self._looks or now < self._looks[0]:
            return 0
        process = self.process()
        async with self._quiet(), self._db.transaction() as connection:
            await processes.hold(connection, process=process)
            strays = await jobs.give_back_strays(connection, process=process, running=self._holdings)
        self._looks = [look for look in self._looks if look > now]
        return len(strays)

    @asynccontextmanager
    async def _quiet(self) -> AsyncGenerator[None]:
        """While no admission is on its way: what it brings would look like strays."""
        for taken in range(_TURNS):
            try:
                await self._turns.acquire()
            except BaseException:
                self._release(taken)
                raise
        try:
            yield
        finally:
            self._release(_TURNS)

    def _release(self, turns: int) -> None:
        for _ in range(turns):
            self._turns.release()

    def _settled(self, ends: Iterable[tuple[JobId, int]]) -> None:
        if self._watched:
            for end in ends:
                if (on_freed := self._watched.pop(end, None)) is not None:
                    on_freed()
