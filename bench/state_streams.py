"""Streams: appends of sixteen writers, how soon a tail sees an entry, and reading two million from the start."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter

from bench import state_limits
from bench.group import Group
from bench.state_limits import WRITERS
from bench.timed import rate_of
from chimpbase import App, Stream

_ENTRIES = 2_000_000
_PAUSE_S = 0.02
_PAGE = 1000
log = Stream("bench.log", int)
moments = Stream("bench.moments", float)
old = Stream("bench.old", int)


class Streams:
    """The part of the group."""

    def __init__(self, group: Group) -> None:
        self.group, self.is_filled = group, False

    async def append(self) -> None:
        """Each append durable when its call returns; each read back once."""
        group, stand = self.group, self.group.stand
        app, before = App("bench", register=[log]), await stand.value("select max(id) from chimpbase.entry") or 0
        async with stand.running(app, workers=False):
            rate, done = await rate_of(
                lambda number: app.ctx.stream.append(log, number),
                callers=WRITERS,
                seconds=group.sizes.seconds(3, least=1),
            )
        stored = await stand.value(
            "select count(distinct entry.payload::int) from chimpbase.entry join chimpbase.stream"
            " on stream.id = entry.stream where stream.name = $1 and entry.id > $2",
            log.name,
            before,
        )
        if stored != done:
            raise RuntimeError(f"{done} entries appended, {stored} stored")
        group.add(f"append to a stream, {WRITERS} writers", rate, limit=group.limits["append"])

    async def tail(self) -> None:
        """From the call of append to the entry in the hands of a live tail of the same process, at rest otherwise."""
        group, stand = self.group, self.group.stand
        app = App("bench", register=[moments])
        figures: list[float] = []
        count = group.sizes.of(300, least=100)
        async with stand.running(app, workers=False):
            heard = asyncio.Event()

            async def listen() -> None:
                async for entry in app.ctx.stream.tail(moments):
                    figures.append((perf_counter() - entry.payload) * 1000)
                    heard.set()
                    if len(figures) == count + 1:
                        return

            listening = asyncio.create_task(listen())
            # the first tells that the tail has begun
            while not figures:
                await app.ctx.stream.append(moments, perf_counter())
                await asyncio.sleep(0.1)
            del figures[:]
            figures.append(0.0)
            for _ in range(count):
                heard.clear()
                await app.ctx.stream.append(moments, perf_counter())
                await heard.wait()
                await asyncio.sleep(_PAUSE_S)
            await listening
        del figures[0]
        group.add("append to the tail's hands, p50", statistics.median(figures), "ms")
        group.add("append to the tail's hands, p99", statistics.quantiles(figures, n=100)[98], "ms")
        group.report.latencies("stream: append to the tail's hands", figures)

    async def catch_up(self) -> None:
        """Read everything from the start, a thousand at a time: each entry once, in order."""
        group, stand = self.group, self.group.stand
        entries = group.sizes.of(_ENTRIES, least=100_000)
        app = App("bench", register=[old])
        async with stand.running(app, workers=False):
            stream = app.ctx.stream
            if not self.is_filled:
                await self._fill(entries)
                self.is_filled = True
            number = await stand.value("select id from chimpbase.stream where name = $1", old.name)
            limit = await state_limits.reads(stand.dsn, stream=number, entries=min(entries, 300_000), page=_PAGE)
            read, after = 0, None
            began = perf_counter()
            while page := await stream.read(old, after=after, limit=_PAGE):
                if [entry.payload for entry in page] != list(range(read, read + len(page))):
                    raise RuntimeError(f"entries lost or out of order after {read}")
                read, after = read + len(page), page[-1].position
            seconds = perf_counter() - began
        if read != entries:
            raise RuntimeError(f"{entries} entries in, {read} read")
        group.add(f"catch up with {entries:,} entries", read / seconds, limit=limit)

    async def _fill(self, entries: int) -> None:
        for start in range(0, entries, 50_000):
            await self.group.stand.value(
                "select number from chimpbase.append_entries($1, (select array_agg(n::text order by n)"
                " from generate_series($2::int, $3::int - 1) n), '{}', null, null)",
                old.name,
                start,
                min(entries, start + 50_000),
            )
        await self.group.stand.value("vacuum (analyze) chimpbase.entry")
