"""What must stay flat: the rate with a huge backlog, a million delayed jobs, a thousand queues, a transaction held
open, and many processes that start at once. Each figure is a share of the same workload without the burden.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter

import asyncpg

from bench.group import Group, Part
from bench.limits import fill
from bench.stand import counted_once, until
from bench.workloads import noop, noops, queue_limits, seen, write
from chimpbase import App, Queue, worker

_COUNT = 100_000
#: What the drain of a backlog and the raw limits take once more.
_AFTERWARDS_S = 50


class FlatGroup(Group):
    """The burdens, one after another."""

    name = "flat"
    title = "What must stay flat"
    words = "Each figure is a share of the same workload without its burden, right before it: one round is enough."
    most_rounds = 1
    weight = 1.2

    async def prepare(self) -> None:
        """Make the queues."""
        self.app = App("bench", register=[noop, write])
        async with self.stand.running(self.app, workers=False):
            pass

    async def calibrate(self) -> dict[str, float]:
        """As for the queue."""
        return await queue_limits(self.stand, jobs=self.sizes.of(_COUNT, least=20_000))

    def parts(self) -> Sequence[Part]:
        """Every burden."""
        return [
            ("delayed jobs", self.delayed),
            ("a thousand queues", self.many_queues),
            ("a transaction held open", self.held_transaction),
            ("eight processes that start", self.start_together),
            ("a growing backlog", self.backlog),
        ]

    async def backlog(self) -> None:
        """Millions of jobs wait: how fast do the next hundred thousand go?"""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        sizes = [_COUNT, *(self.sizes.of(millions * 1_000_000, least=200_000 * millions) for millions in (1, 2, 5))]
        rates, waiting = list[float](), 0
        await stand.clean()
        filling, stored = 0.0, 0
        for place, size in enumerate(sizes):
            more = size - waiting
            if stored and filling * more / stored > self.left() - _AFTERWARDS_S:
                self.console.print(f"      no time for a backlog of {size:,}")
                sizes = sizes[:place]
                break
            began = perf_counter()
            await fill(stand.dsn, queue=queue, jobs=more)
            filling, stored = filling + perf_counter() - began, stored + more
            rates.append(await self._first(queue, of=size, filled=True))
            waiting = await stand.value("select count(*) from chimpbase.job")
        self.report.curves["drain by backlog"] = list(zip(map(float, sizes), rates, strict=True))
        self._add(f"drain with a backlog of {sizes[-1]:,}, of the rate with {_COUNT:,}", rates[-1] / rates[0], 0.8)

    async def delayed(self) -> None:
        """A million jobs that are due another day."""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        alone = await self._first(queue, of=_COUNT)
        rows = self.sizes.of(1_000_000, least=100_000)
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
        seconds = self.sizes.seconds(45, least=5)
        free, over_time = await self._flow(seconds)
        self.report.curves["flow, no transaction held"] = over_time
        warnings = _Warnings()
        logging.getLogger("chimpbase").addHandler(warnings)
        async with self._held():
            held, over_time = await self._flow(seconds)
        self.report.curves["flow, a transaction held open"] = over_time
        logging.getLogger("chimpbase").removeHandler(warnings)
        self._add(
            f"flow of jobs while a transaction is held open for {seconds:.0f} s, of the rate without", held / free, 0.8
        )
        # its last third against its first: a rate that falls has only not fallen far yet
        third = max(1, len(over_time) // 3)
        rates = [rate for _, rate in over_time]
        last_of_first = sum(rates[-third:]) / sum(rates[:third])
        self._add("the same, its last third against its first", last_of_first, 0.8)
        for text in warnings.texts[:1]:
            self.console.print(f"      warned: {text}", highlight=False)

    async def start_together(self) -> None:
        """Eight processes start on 200,000 ready jobs; and eight that are up already are let go on as many."""
        stand = self.stand
        alone = await self._first(await stand.queue(noops.name), of=_COUNT)
        rows = self.sizes.of(200_000, least=20_000)
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
            rate = len(seen) / (perf_counter() - began)
        counted_once(seen, len(seen))
        return rate

    async def _flow(self, seconds: float) -> tuple[float, list[tuple[float, float]]]:
        """Jobs per second through a process that enqueues what it works, a thousand at a time; and in each second."""
        stand, sent = self.stand, 0
        await stand.clean()
        await stand.value("vacuum chimpbase.job")
        seen.clear()
        over_time, marked = list[tuple[float, float]](), 0
        async with stand.running(self.app):
            began = mark = perf_counter()
            while (now := perf_counter()) - began < seconds:
                if now - mark >= 1:
                    over_time.append((round(now - began, 1), round((len(seen) - marked) / (now - mark))))
                    mark, marked = now, len(seen)
                if sent - len(seen) < 20_000:
                    await self.app.ctx.queue.enqueue_many(noops, range(sent, sent + 1000))
                    sent += 1000
                else:
                    await asyncio.sleep(0.001)
            rate = len(seen) / (perf_counter() - began)
            await until(lambda: asyncio.sleep(0, len(seen) == sent))
        counted_once(seen, sent)
        return rate, over_time

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
        self.add(name, share, "", target=target)


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
