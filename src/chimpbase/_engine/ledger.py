"""The ledger: what activations read and write, many at a time.

Journals are loaded, steps written and runs ended in batches: what several runs ask for at one moment goes in one
statement and one commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import LoadedRun, QueueId, StepKind
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import runs, workflow_codes

_BATCH = 500
#: Steps and ends go in two parts where there are enough: the runs of one part go on while the server has the other.
#: Smaller parts cost more than that brings: with twelve, Python for a run grew by a quarter, and none went faster.
_LANES, _LEAST_PART = 2, 25


class RunLedger:
    """Used by every activation of one process."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._loads: Coalescer[runs.Lease, LoadedRun | None] = Coalescer(self._load, max_batch=_BATCH)
        self._memos: Coalescer[runs.Memo, bool] = Coalescer(
            self._write, max_batch=_BATCH, lanes=_LANES, least_part=_LEAST_PART
        )
        self._endings: Coalescer[runs.Ending, bool] = Coalescer(
            self._finish, max_batch=_BATCH, lanes=_LANES, least_part=_LEAST_PART
        )

    def load(self, lease: runs.Lease) -> Awaitable[LoadedRun | None]:
        """A run with its journal; None when the lease is lost, or the run has ended."""
        return self._loads.submit(lease)

    def memo(self, memo: runs.Memo) -> Awaitable[bool]:
        """Write a step; whether it was written by this call."""
        return self._memos.submit(memo)

    async def end(self, ending: runs.Ending, *, family: bool) -> list[QueueId] | None:
        """End a run; the queues to wake, or None when the lease is lost. `family`: it has a parent or children."""
        if not family:
            return [] if await self._endings.submit(ending) else None
        for again in (True, True, False):
            try:
                async with self._db.acquire() as connection:
                    return await runs.finish_family(connection, ending)
            except DatabaseError as error:
                if not (again and error.transient):
                    raise
        return None

    async def consume(
        self,
        lease: runs.Lease,
        *,
        names: list[str],
        key: str,
        seq: int,
        kind: StepKind,
        detail: str | None,
        started_at: datetime,
        finished_at: datetime,
    ) -> tuple[str, str] | None:
        """Decide a wait with the oldest message of those names, if there is one."""
        async with self._db.acquire() as connection:
            return await runs.consume(
                connection,
                lease,
                names=names,
                key=key,
                seq=seq,
                kind=kind,
                detail=detail,
                started_at=started_at,
                finished_at=finished_at,
            )

    async def atomically(
        self,
        act: Callable[[Connection], Awaitable[str]],
        write: Callable[[Connection, str], Awaitable[None]],
    ) -> str:
        """Do something and write down its result in one transaction; the result."""
        async with self._db.transaction() as connection:
            result = await act(connection)
            await write(connection, result)
        return result

    async def names_of(self, code: str) -> frozenset[str] | None:
        """What the code of a hash mentioned; None when that is not known."""
        async with self._db.acquire() as connection:
            return await workflow_codes.find(connection, hash=code)

    async def suspend(self, lease: runs.Lease, rest: runs.Rest) -> runs.Rested:
        """Put a run to rest."""
        async with self._db.acquire() as connection:
            return await runs.suspend(connection, lease, rest)

    async def continue_as(self, lease: runs.Lease, *, input: str, view: str | None) -> bool:
        """Begin a run anew."""
        async with self._db.acquire() as connection:
            return await runs.continue_as(connection, lease, input=input, view=view)

    async def migrate(
        self, lease: runs.Lease, *, workflow: str, version: int, input: str, keys: dict[str, str | None]
    ) -> bool:
        """Move a run to another version."""
        async with self._db.acquire() as connection:
            return await runs.migrate(connection, lease, workflow=workflow, version=version, input=input, keys=keys)

    async def disturbed(self, numbers: Sequence[int]) -> list[tuple[int, str | None, bool]]:
        """Of these active runs, those to be cancelled or paused."""
        async with self._db.acquire() as connection:
            return await runs.list_disturbed(connection, runs=numbers)

    async def close(self) -> None:
        """Write what is waiting."""
        for lane in (self._memos, self._endings, self._loads):
            await lane.close()

    async def _load(self, leases: list[runs.Lease]) -> Sequence[LoadedRun | None]:
        async with self._db.acquire() as connection:
            loaded = await runs.load_journals(connection, leases)
        return [loaded.get(lease.run) for lease in leases]

    async def _write(self, memos: list[runs.Memo]) -> Sequence[bool]:
        async with self._db.acquire() as connection:
            written = await runs.memo(connection, memos)
        return [(memo.lease.run, memo.step.key) in written for memo in memos]

    async def _finish(self, endings: list[runs.Ending]) -> Sequence[bool]:
        async with self._db.acquire() as connection:
            held = await runs.finish(connection, endings)
        return [ending.lease.run in held for ending in endings]
