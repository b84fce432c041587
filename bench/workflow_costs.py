"""Three-step workflows per second, every step durable, at 1, 50 and 500 in flight; what they cost; and beside peers.

    python -m bench.workflow_costs [--scale 0.5] [--peers] [--json FILE]

Starts a PostgreSQL of its own (fsync on) and counts every run and step in and out: a lost or doubled one fails the run.
Ratios within one run are what to read; the absolute figures belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from time import perf_counter

import uvloop
from rich.console import Console

from bench import flows
from bench.flow_member import linger
from bench.peers import flow_rotation
from bench.report import Figure, Report, machine
from bench.stand import SERVER, Stand, stand
from chimpbase import App

TARGETS: dict[int, float | None] = {1: None, 50: 5_000, 500: 15_000}


async def start_to_end(here: Stand, report: Report, console: Console, *, runs: int) -> None:
    """From start to result, beside the bare loop of the same statements."""
    for at_once, target in TARGETS.items():
        some = max(200, runs // 20) if at_once == 1 else runs
        limit = await flows.bare(here, rounds=max(3, some // at_once), at_once=at_once)
        report.add(Figure(f"raw limit, {at_once} in flight", limit), console)
        taken = await flows.in_flight(here, flows.flow, runs=some, at_once=at_once)
        name = f"three-step workflows, {at_once} in flight"
        report.add(Figure(name, taken.rate, limit=limit, target=target), console)
        report.add(Figure(f"  start to end, {at_once} in flight, p50", taken.p50_ms, "ms"), console)
        report.add(Figure(f"  start to end, {at_once} in flight, p99", taken.p99_ms, "ms"), console)
        report.add(Figure(f"  statements per workflow, {at_once} in flight", taken.statements, ""), console)
        report.add(Figure(f"  commits per workflow, {at_once} in flight", taken.commits, ""), console)
    lazy = await flows.in_flight(here, flows.lazy_flow, runs=runs, at_once=50)
    report.add(Figure("three lazy steps, 50 in flight", lazy.rate), console)


async def fleets(here: Stand, report: Report, console: Console, *, runs: int) -> None:
    """From a full queue to an empty one, by one process and by two."""
    alone = report.add(Figure("from a full queue, one process", await flows.drain(here, runs)), console)
    await flows.fill(here, "bench", runs)
    members = [await _member("work", here) for _ in range(2)]
    began = perf_counter()
    for one in members:
        await _go(one)
    await flows.drained(here)
    together = runs / (perf_counter() - began)
    for one in members:
        await one.wait()
    await flows.counted(here, runs, here=False)
    report.add(Figure("from a full queue, two processes, their start included", together), console)
    report.add(Figure("  two processes / one", together / alone.value, "times"), console)


async def burdens(here: Stand, report: Report, console: Console, *, scale: float) -> None:
    """Runs that only sleep, and signals."""
    sleepers = int(100_000 * scale)
    size, statements = await flows.sleeping(here, sleepers)
    report.add(Figure(f"memory for each of {sleepers:,} sleeping runs", size, "bytes"), console)
    idle = Figure("statements beside them", statements, "a second", target=2, less_is_better=True)
    report.add(idle, console)
    rate = await flows.signalled(here, int(10_000 * scale))
    report.add(Figure("signals, each ends a run that waits, 50 callers", rate, target=1_000), console)


async def recovery(here: Stand, report: Report, console: Console, *, runs: int) -> None:
    """A process is killed in the middle of its runs; another one, started at that moment, ends them all."""
    async with here.running(App("bench", register=[linger]), workers=False):
        pass
    start = "select count(chimpbase.start_workflow('bench.linger', to_jsonb(n))) from generate_series(0, $1::int - 1) n"
    await here.value(start, runs)
    first, second = await _member("linger", here), await _member("linger", here)
    await _go(first)
    while await here.value("select count(*) from chimpbase.step") < 2 * 200:
        await asyncio.sleep(0.005)
    held = "select count(*) from chimpbase.job where process is not null"
    before = await here.value("select max(id) from chimpbase.process")
    first.kill()
    began = perf_counter()
    orphans = await here.value(held)
    await _go(second)
    ours = f"select count(*) from chimpbase.job where process = {before}"
    while await here.value(ours):
        await asyncio.sleep(0.005)
    taken_over = perf_counter() - began
    await flows.drained(here)
    await second.wait()
    await flows.counted(here, runs, here=False)
    name = f"kill -9 in the middle of {orphans} runs: until all are taken over by a new process, its start included"
    report.add(Figure(name, taken_over, "s"), console)


async def beside_peers(here: Stand, report: Report, console: Console, *, runs: int) -> None:
    """The peers on the same server, each in its fastest known durable configuration."""
    for peer in flow_rotation.FLOW_PEERS:
        for at_once in TARGETS:
            some = max(100, runs // 20) if at_once == 1 else runs
            found = await flow_rotation.run(peer, here, runs=some, at_once=at_once)
            report.add(Figure(f"{peer.name}, {at_once} in flight", found["rate"]), console)
            report.add(Figure(f"  start to end, {peer.name}, {at_once} in flight, p50", found["p50"], "ms"), console)
            ours = report.value(f"three-step workflows, {at_once} in flight")
            report.add(
                Figure(f"  chimpbase / {peer.name}, {at_once} in flight", ours / found["rate"], "times"), console
            )


async def _member(role: str, here: Stand) -> Process:
    member = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.flow_member", role, here.dsn, stdin=PIPE, stdout=PIPE
    )
    assert member.stdout is not None
    await member.stdout.readline()
    return member


async def _go(member: Process) -> None:
    assert member.stdin is not None
    member.stdin.write(b"\n")
    await member.stdin.drain()


async def measure(*, scale: float, peers: bool, console: Console) -> tuple[Report, str]:
    """Every workload, in order."""
    runs, report = int(20_000 * scale), Report()
    if peers:
        flow_rotation.prepare()
    async with stand() as here:
        await start_to_end(here, report, console, runs=runs)
        await fleets(here, report, console, runs=runs)
        await recovery(here, report, console, runs=1_000)
        await burdens(here, report, console, scale=scale)
        if peers:
            await beside_peers(here, report, console, runs=runs)
        return report, machine(here.version, SERVER)


async def main(given: argparse.Namespace) -> None:
    """Measure and tell."""
    console = Console()
    report, where = await measure(scale=given.scale, peers=given.peers, console=console)
    report.show(console)
    console.print(where)
    if given.json:
        given.json.write_text(json.dumps({"machine": where, "figures": report.raw()}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path)
    uvloop.run(main(parser.parse_args()))
