"""What must stay flat: the rate with a huge backlog, a million delayed jobs, a thousand queues, a transaction held
open, and many processes that start at once. Each figure is a share of the same workload without the burden.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

import asyncpg
from rich.console import Console

from bench.limits import fill
from bench.report import Figure, Report
from bench.stand import Stand, counted_once, until
from bench.workloads import noop, noops, seen, write
from chimpbase import App, Queue, worker

_COUNT = 100_000


class Flat:
    """The burdens, one after another."""

    def __init__(self, stand: Stand, report: Report, *, scale: float, console: Console) -> None:
        self.stand, self.report, self.scale, self.console = stand, report, scale, console
        self.app = App("bench", register=[noop, write])

    async def all(self) -> None:
        """Every burden."""
        await self.delayed()
        await self.many_queues()
        await self.held_transaction()
        await self.start_together()
        await self.backlog()

    async def backlog(self) -> None:
        """Five million jobs wait: how fast do the next hundred thousand go?"""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        alone = await self._first(queue, of=_COUNT)
        rows = int(5_000_000 * self.scale)
        await stand.clean()
        await fill(stand.dsn, queue=queue, jobs=rows)
        rate = await self._first(queue, of=rows, filled=True)
        self._add(f"drain with a backlog of {rows:,}, of the rate with {_COUNT:,}", rate / alone, 0.8)

    async def delayed(self) -> None:
        """A million jobs that are due another day."""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        alone = await self._first(queue, of=_COUNT)
        rows = int(1_000_000 * self.scale)
        await stand.clean()
        await stand.value(
            "insert into chimpbase.job_later (id, due_at, enqueued_at, queue, payload)"
            " select nextval('chimpbase.job_id'), now() + interval '1 day' + n * interval '1 second', now(), $1, '0'"
            " from generate_series(1, $2::int) n",
            queue,
            rows,
        )
        rate = await self._first(queue, of=_COUNT, clean=False)
        self._add(f"drain beside {rows:,} delayed jobs, of the rate without", rate / alone, 0.8)

    async def many_queues(self) -> None:
        """The jobs of one queue spread over a thousand."""
        stand, count = self.stand, 1000
        alone = await self._first(await stand.queue(noops.name), of=_COUNT)
        app = App(
            "many", register=[worker(Queue(f"many.{n}", int), concurrency=4)(noop.function) for n in range(count)]
        )
        async with stand.running(app, workers=False):
            pass
        await stand.clean()
        await stand.value(
            "insert into chimpbase.job (id, sort, queue, payload) select id, id, queue, id::text from"
            " (select nextval('chimpbase.job_id') as id, queue.id as queue from generate_series(1, $1::int) n"
            " join chimpbase.queue on queue.name = 'many.' || n % 1000) as new",
            _COUNT,
        )
        seen.clear()
        async with stand.running(app):
            began = perf_counter()
            await stand.empty()
            seconds = perf_counter() - began
        counted_once(seen, _COUNT)
        self._add(f"drain of {count:,} queues, of the rate of one", _COUNT / seconds / alone, 0.5)
        await stand.value("delete from chimpbase.queue where name like 'many.%'")

    async def held_transaction(self) -> None:
        """A steady flow, with and without somebody's transaction held open meanwhile."""
        seconds = max(5.0, 60 * self.scale)
        free = await self._flow(seconds)
        warnings = _Warnings()
        logging.getLogger("chimpbase").addHandler(warnings)
        async with self._held():
            held = await self._flow(seconds)
        logging.getLogger("chimpbase").removeHandler(warnings)
        self._add(
            f"flow of jobs while a transaction is held open for {seconds:.0f} s, of the rate without", held / free, 0.8
        )
        for text in warnings.texts[:1]:
            self.console.print(f"    warned: {text}", highlight=False)

    async def start_together(self) -> None:
        """Eight processes start on 200,000 ready jobs; and eight that are up already are let go on as many."""
        stand = self.stand
        alone = await self._first(await stand.queue(noops.name), of=_COUNT)
        rows = int(200_000 * max(self.scale, 0.1))
        starting = await self._eight(rows, up_before=False)
        self._add(f"8 processes that start on {rows:,} jobs, of the rate of one", starting / alone, 0.5)
        working = await self._eight(rows, up_before=True)
        self._add(f"8 processes that are up already, {rows:,} jobs, of the rate of one", working / alone, 0.5)

    async def _eight(self, rows: int, *, up_before: bool) -> float:
        """Jobs per second of eight processes, from the moment they are told to start, or may claim the first job."""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        await stand.clean()
        await fill(stand.dsn, queue=queue, jobs=rows)
        if up_before:
            await stand.value("update chimpbase.queue set paused_at = now() where id = $1", queue)
        members = [await member("drain", stand.dsn, "0") for _ in range(8)]
        for one in members:
            await answer(one)
        began = perf_counter()
        for one in members:
            order(one)
        if up_before:
            for one in members:
                await answer(one)
            await stand.value("update chimpbase.queue set paused_at = null where id = $1", queue)
            began = perf_counter()
            await stand.value("select pg_notify('chimpbase', $1::text)", str(queue))
        await stand.empty()
        seconds = perf_counter() - began
        for one in members:
            order(one)
        told = b" ".join([(await one.communicate())[0] for one in members])
        counted_once([int(word) for word in told.split() if word.isdigit()], rows)
        return rows / seconds

    async def _first(self, queue: int, *, of: int, filled: bool = False, clean: bool = True) -> float:
        """Jobs per second of the first hundred thousand."""
        stand = self.stand
        if not filled:
            if clean:
                await stand.clean()
            await fill(stand.dsn, queue=queue, jobs=of)
        seen.clear()
        async with stand.running(self.app):
            began = perf_counter()
            while len(seen) < _COUNT:
                await asyncio.sleep(0.005)
            return len(seen) / (perf_counter() - began)

    async def _flow(self, seconds: float) -> float:
        """Jobs per second through a process that enqueues what it works, a thousand at a time."""
        stand, sent = self.stand, 0
        await stand.clean()
        await stand.value("vacuum chimpbase.job")
        seen.clear()
        async with stand.running(self.app):
            began = perf_counter()
            while perf_counter() - began < seconds:
                if sent - len(seen) < 20_000:
                    await self.app.ctx.queue.enqueue_many(noops, range(sent, sent + 1000))
                    sent += 1000
                else:
                    await asyncio.sleep(0.001)
            rate = len(seen) / (perf_counter() - began)
            await until(lambda: asyncio.sleep(0, len(seen) == sent))
        counted_once(seen, sent)
        return rate

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[None]:
        connection = await asyncpg.connect(self.stand.dsn, server_settings={"application_name": "a long report"})
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await connection.execute("select count(*) from chimpbase.queue")
                yield
        finally:
            await connection.close()

    def _add(self, name: str, share: float, target: float) -> None:
        self.report.add(Figure(name, share, "", target=target), self.console)


async def member(*arguments: str) -> Process:
    """A process of its own, see `bench.member`."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.member", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )


async def answer(member: Process) -> bytes:
    """The next line of a member."""
    assert member.stdout is not None
    return await member.stdout.readline()


def order(member: Process) -> None:
    """Tell a member to go on."""
    assert member.stdin is not None
    member.stdin.write(b"go\n")


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "transaction" in record.getMessage():
            self.texts.append(record.getMessage())
