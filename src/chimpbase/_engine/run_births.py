"""Runs that are started by the process that will run them, and so need neither a claim nor a load: nothing is in their
journal yet.

Only where a slot is free at this moment and nobody waits before them; the others are claimed like any activation.
Invariant: a slot that was promised is counted as taken until its activation arrives or is known not to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chimpbase._core.values import ClaimedJob, LoadedRun, NewRun, QueueId
from chimpbase._engine.activator import Activator
from chimpbase._engine.claimer import Claimer
from chimpbase._engine.lane import Lane
from chimpbase._pg.db import Db
from chimpbase._store import run_births


class RunBirths:
    """Starts runs for the free slots of this process, and for whoever claims them where there is none."""

    def __init__(self, activator: Activator, claimer: Claimer | None = None) -> None:
        self._activator, self._claimer = activator, claimer

    async def start(self, db: Db, new: Sequence[NewRun]) -> tuple[list[bool], set[QueueId]]:
        """Start runs in a commit of their own: whether each was started, and the queues that somebody has to claim."""
        promised = self._promise(new)
        if not promised or self._claimer is None:
            async with db.acquire() as connection:
                stored = await run_births.start(connection, new, process=None, leased=[False] * len(new))
            return _sorted_out(new, stored)
        claims = self._claimer.claims
        process, leased = claims.process(), _first(new, {lane.handling.queue: count for lane, count in promised})
        try:
            async with claims.turn():
                with claims.asking():
                    async with db.acquire() as connection:
                        stored = await run_births.start(connection, new, process=process, leased=leased)
                born = [_claimed(new[birth.place - 1], birth) for birth in stored if birth.born]
                kept = claims.process() == process
                if kept:  # else a lease was lost meanwhile, and somebody takes them from the dead
                    claims.took(born)
        finally:
            for lane, count in promised:
                lane.promised -= count
        if kept and claims.open:
            self._activator.expect(_fresh(new[birth.place - 1], birth) for birth in stored if birth.born)
            for lane, _ in promised:
                lane.adopt([job for job in born if job.queue == lane.handling.queue], process=process)
        elif kept:
            claims.give_back(born)
        return _sorted_out(new, stored)

    def _promise(self, new: Sequence[NewRun]) -> list[tuple[Lane, int]]:
        """The lanes that promise free slots to these runs, and how many each."""
        if self._claimer is None or not self._claimer.claims.has_turn or not self._claimer.claims.open:
            return []
        promised: list[tuple[Lane, int]] = []
        for queue, count in Counter([run.queue for run in new]).items():
            lane = self._claimer.lane(queue)
            # a hot lane may have activations before it, and they go first
            if lane is not None and not lane.gated and not lane.hot and (room := min(lane.free, count)):
                lane.promised += room
                promised.append((lane, room))
        return promised


def _first(new: Sequence[NewRun], room: dict[QueueId, int]) -> list[bool]:
    """Of each queue the first runs, as far as there is room."""
    leased: list[bool] = []
    for run in new:
        left = room.get(run.queue, 0)
        leased.append(left > 0)
        room[run.queue] = left - 1
    return leased


def _sorted_out(new: Sequence[NewRun], stored: Sequence[run_births.Birth]) -> tuple[list[bool], set[QueueId]]:
    started = [False] * len(new)
    rest = set[QueueId]()
    for birth in stored:
        started[birth.place - 1] = True
        if not birth.born:
            rest.add(new[birth.place - 1].queue)
    return started, rest


def _claimed(run: NewRun, birth: run_births.Birth) -> ClaimedJob:
    return ClaimedJob(
        birth.job,
        run.queue,
        run.priority,
        birth.job,
        1,
        0,
        False,
        None,
        birth.started_at,
        str(birth.number),
        run.headers,
        run.key,
        None,
    )


def _fresh(run: NewRun, birth: run_births.Birth) -> LoadedRun:
    return LoadedRun(
        number=birth.number,
        id=run.id,
        workflow=run.workflow,
        version=run.version,
        input=run.input,
        started_at=birth.started_at,
        now=birth.started_at,
        headers=run.headers,
        seed=run.id,
    )
