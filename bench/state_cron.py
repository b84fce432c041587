"""The worst minute of cron: very many schedules due at the same instant.

Each must become one job, exactly once, whoever fires it. The clock starts when they are committed as due, and stops
when the last of them has been fired, and again when its job has run.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter

from bench.group import Group
from bench.stand import until
from chimpbase import Ctx, Queue, worker

_SCHEDULES = 100_000
_CADENCES = 500
_FILL = """
insert into chimpbase.schedule (name, expression, tz, queue, next_at, declared, payload)
select 'tenant:' || n, (n % 60) || ' ' || (n % $2 / 60) || ' * * *', 'UTC', $1, 'infinity', false, n::text
from generate_series(1, $3::int) n
"""
# each at an instant of its own cadence, within the day before
_DUE = """
update chimpbase.schedule
set next_at = date_trunc('day', now()) - interval '1 day'
  + split_part(expression, ' ', 2)::int * interval '1 hour' + split_part(expression, ' ', 1)::int * interval '1 minute'
"""
due_jobs = Queue("bench.tick", int)
_FIRED = "select not exists (select from chimpbase.schedule where next_at <= now())"
_RAN = "select not exists (select from chimpbase.job)"


@worker(due_jobs, concurrency=100)
async def ticks(ctx: Ctx, number: int) -> None:
    """It only has to run."""


class Burst:
    """The part of the group."""

    def __init__(self, group: Group) -> None:
        self.group = group

    async def fire(self) -> None:
        """By one process, and by three that compete."""
        for processes in (1, 3):
            await self._fire(processes)

    async def _fire(self, processes: int) -> None:
        group, stand = self.group, self.group.stand
        schedules = group.sizes.of(_SCHEDULES, least=10_000)
        await stand.value("truncate chimpbase.schedule, chimpbase.occurrence")
        await stand.clean()
        await stand.value(_FILL, await stand.queue(due_jobs.name), _CADENCES, schedules)
        await stand.value("vacuum analyze chimpbase.schedule")
        members = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.member", "tick", stand.dsn, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(processes)
        ]
        for member in members:
            assert member.stdout is not None
            await member.stdout.readline()
        await stand.value(_DUE)
        began = perf_counter()
        await until(lambda: stand.value(_FIRED))
        fired_s = perf_counter() - began
        await until(lambda: stand.value(_RAN))
        ran_s = perf_counter() - began
        for member in members:
            member.terminate()
            await member.wait()
        await self._check(schedules)
        who = f"{schedules:,} schedules due at once, {processes} process{'es' if processes > 1 else ''}"
        group.add(f"{who}: all fired", fired_s, "s", target=5 * group.sizes.scale, less_is_better=True)
        group.add(f"{who}: all run", ran_s, "s")
        if processes == 1:
            limit = group.limits["insert by the thousand"]
            group.add("occurrences fired, 1 process", schedules / fired_s, limit=limit)

    async def _check(self, schedules: int) -> None:
        stand = self.group.stand
        once = await stand.value(
            "select count(*) = $1 and count(distinct schedule) = $1 from chimpbase.occurrence", schedules
        )
        jobs = await stand.value("select count(distinct payload) from chimpbase.job_done")
        rows = await stand.value("select count(*) from chimpbase.job_done")
        if not once or jobs != schedules or rows != schedules:
            raise RuntimeError("an occurrence was lost or doubled")
