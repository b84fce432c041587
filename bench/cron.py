"""The worst minute of cron: very many schedules due at the same instant.

    .venv/bin/python bench/cron.py [--schedules 100000] [--processes 1,3] [--json results.json]

Each schedule must become one job, exactly once, whoever fires it; anything else fails the run. The clock starts when
they are committed as due, and stops when the last of them has been fired, and again when its job has run.
"""

from __future__ import annotations

import sys
from pathlib import Path

# run as a file, its own folder would be searched for imports first
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import json
from time import perf_counter

import uvloop
from rich.console import Console

from bench.report import Figure, Report, machine
from bench.stand import SERVER, Stand, stand, until
from chimpbase import App, Ctx, Queue

FILL = """
insert into chimpbase.schedule (name, expression, tz, queue, next_at, declared, payload)
select 'tenant:' || n, (n % 60) || ' ' || (n % $2 / 60) || ' * * *', 'UTC', $1, 'infinity', false, n::text
from generate_series(1, $3::int) n
"""
# each at an instant of its own cadence, within the day before
DUE = """
update chimpbase.schedule
set next_at = date_trunc('day', now()) - interval '1 day'
  + split_part(expression, ' ', 2)::int * interval '1 hour' + split_part(expression, ' ', 1)::int * interval '1 minute'
"""
FIRED = "select not exists (select from chimpbase.schedule where next_at <= now())"


async def main() -> int:
    """Run it for each number of processes and print the table; the exit code."""
    options = _options()
    console, report = Console(), Report()
    async with stand() as here:
        console.print(machine(here.version, SERVER))
        for processes in options.processes:
            await burst(here, report, options.schedules, options.cadences, processes, console)
    report.show(console)
    if options.json:
        options.json.write_text(json.dumps(report.raw(), indent=2))
    return 0


async def burst(here: Stand, report: Report, schedules: int, cadences: int, processes: int, console: Console) -> None:
    """Let all schedules fall due at once and see them through."""
    async with here.running(_app(), workers=False):
        queue = await here.queue("bench.tick")
    await here.value("truncate chimpbase.schedule, chimpbase.occurrence")
    await here.clean()
    await here.value(FILL, queue, cadences, schedules)
    await here.value("vacuum analyze chimpbase.schedule")
    members = [await _member(here) for _ in range(processes)]
    await until(lambda: here.value("select count(*) = $1 from chimpbase.process where dead_at is null", processes))
    await here.value(DUE)
    began = perf_counter()
    await until(lambda: here.value(FIRED))
    fired_s = perf_counter() - began
    await until(lambda: here.value("select count(*) = $1 from chimpbase.job_done", schedules))
    ran_s = perf_counter() - began
    once = await here.value(
        "select count(*) = $1 and count(distinct schedule) = $1 from chimpbase.occurrence", schedules
    )
    jobs = await here.value("select count(distinct payload) from chimpbase.job_done")
    batches = await here.value("select count(distinct xmin::text) from chimpbase.occurrence")
    for member in members:
        member.terminate()
        await member.wait()
    if not once or jobs != schedules:
        raise RuntimeError("an occurrence was lost or doubled")
    who = f"{schedules:,} schedules, {processes} process{'es' if processes > 1 else ''}"
    report.add(Figure(f"{who}: all fired", fired_s, "s", target=5, less_is_better=True), console)
    report.add(Figure(f"{who}: all run", ran_s, "s"), console)
    report.add(Figure(f"{who}: transactions to fire", batches, ""), console)


def _app() -> App:
    app = App("bench")

    @app.worker(Queue("bench.tick", int), concurrency=100)
    async def tick(ctx: Ctx, number: int) -> None: ...

    return app


async def _member(here: Stand) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--work", here.dsn, "--in", str(here.directory)
    )


async def work(dsn: str, directory: Path) -> None:
    """Be one of the processes, until told to end."""
    async with _app().running(database_url=dsn, project=directory):
        await asyncio.Event().wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--cadences", type=int, default=500, help="how many different expressions they have")
    parser.add_argument("--processes", type=lambda text: [int(one) for one in text.split(",")], default=[1, 3])
    parser.add_argument("--json", type=Path, help="also write the raw figures there")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = _options()
    sys.exit(uvloop.run(work(given.work, given.directory) if given.work else main()))
