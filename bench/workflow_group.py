"""Workflows of three durable steps: how many a second, what they cost, what burdens them, and their peers.

The raw limit is the same statements in a bare loop, as many to a statement as are in flight. What is lost or doubled
fails the run.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from bench import flows
from bench.flow_member import linger
from bench.group import Group, Part
from bench.limits import commits
from bench.peers import flow_rotation
from bench.peers.environments import EnvironmentLacking
from bench.peers.rotation import Peer, PeerFailed
from bench.timed import best_of
from chimpbase import App

TARGETS: dict[int, float | None] = {1: None, 50: 5_000, 500: 15_000}
_LINGERING, _MEMOS_AT_KILL = 1_000, 400


class WorkflowGroup(Group):
    """Three steps one after another, every step durable."""

    name = "workflows"
    title = "Workflows of three steps"

    async def prepare(self) -> None:
        """Make the tables, and install whom we can."""
        self.runs = self.sizes.of(10_000, least=1000)
        self.rates: dict[int, float] = {}
        self.peers: list[Peer] = []
        told = [
            "Every step is durable before the next begins. Each is counted as it runs and as it is stored.",
            "The raw limit is the same five statements in a bare loop, for all that are in flight at once.",
        ]
        for peer in flow_rotation.FLOW_PEERS:
            try:
                peer.command()
                self.peers.append(peer)
                told.append(f"{peer.name}: {peer.words}.")
            except EnvironmentLacking as lacking:
                self.console.print(f"      {peer.name} is left out: {lacking}")
                told.append(f"{peer.name} was left out: {lacking}.")
        self.words = "\n".join(f"- {one}" for one in told)
        async with self.stand.running(App("bench", register=[*flows.FLOWS, linger]), workers=False):
            pass

    async def calibrate(self) -> dict[str, float]:
        """The bare loop of the same statements, and commits alone."""
        # one alone waits for the disk at each commit, which is no measure of a quiet machine
        limits = {f"bare loop, {at_once} in flight": await self._bare(at_once) for at_once in TARGETS if at_once > 1}
        limits["commits, 16 connections"] = await best_of(2, lambda: commits(self.stand.dsn, connections=16, seconds=1))
        return limits

    def parts(self) -> Sequence[Part]:
        """By how many are in flight, by how many processes, and by what is done to them."""
        parts: list[Part] = [(f"{at_once} in flight", self._flight(at_once)) for at_once in TARGETS]
        parts += [("lazy steps", self._lazy), ("a full queue", self._fleets)]
        parts += [(peer.name, self._beside(peer)) for peer in self.peers]
        # what burdens them takes long, and is no matter of a few percent
        burdens: list[Part] = [("kill -9", self._recovery), ("signals", self._signals), ("sleepers", self._sleepers)]
        return parts if self.turn > 1 else [*parts, *burdens]

    def _some(self, at_once: int) -> int:
        return max(100, self.runs // 20) if at_once == 1 else self.runs

    async def _bare(self, at_once: int) -> float:
        rounds = max(3, self._some(at_once) // at_once)
        return await best_of(2, lambda: flows.bare(self.stand, rounds=rounds, at_once=at_once))

    def _flight(self, at_once: int) -> Callable[[], Awaitable[None]]:
        async def measure() -> None:
            limit = self.limits.get(f"bare loop, {at_once} in flight") or await self._bare(at_once)
            taken = await flows.in_flight(self.stand, flows.flow, runs=self._some(at_once), at_once=at_once)
            name = f"start to end, {at_once} in flight"
            self.rates[at_once] = taken.rate
            self.add(name, taken.rate, limit=limit, target=TARGETS[at_once])
            self.add(f"{name}, p50", taken.p50_ms, "ms")
            self.add(f"{name}, p99", taken.p99_ms, "ms")
            self.add(f"statements per workflow, {at_once} in flight", taken.statements, "")
            self.add(f"commits per workflow, {at_once} in flight", taken.commits, "")

        return measure

    async def _lazy(self) -> None:
        taken = await flows.in_flight(self.stand, flows.lazy_flow, runs=self.runs, at_once=50)
        self.add("three lazy steps, 50 in flight", taken.rate)

    async def _fleets(self) -> None:
        """From a full queue to an empty one, by one process and by two."""
        here = self.stand
        alone = await flows.drain(here, self.runs)
        self.add("from a full queue, one process", alone)
        await flows.fill(here, "bench", self.runs)
        members = [await _member("work", here.dsn) for _ in range(2)]
        began = perf_counter()
        for one in members:
            await _go(one)
        await flows.drained(here)
        together = self.runs / (perf_counter() - began)
        for one in members:
            await one.wait()
        await flows.counted(here, self.runs, here=False)
        self.add("from a full queue, two processes, their start included", together)
        self.add("two processes in times of one", together / alone, "times")

    async def _recovery(self) -> None:
        """A process is killed in the middle of its runs; another one, started at that moment, ends them all."""
        here = self.stand
        await flows.fill(here, linger.name, _LINGERING)
        first, second = await _member("linger", here.dsn), await _member("linger", here.dsn)
        await _go(first)
        while await here.value("select count(*) from chimpbase.step") < _MEMOS_AT_KILL:
            await asyncio.sleep(0.005)
        killed = await here.value("select max(id) from chimpbase.process")
        first.kill()
        began = perf_counter()
        held = "select count(*) from chimpbase.job where process = $1"
        orphans = await here.value(held, killed)
        await _go(second)
        while await here.value(held, killed):
            await asyncio.sleep(0.005)
        taken_over = perf_counter() - began
        await flows.drained(here)
        await first.wait()
        await second.wait()
        await flows.counted(here, _LINGERING, here=False)
        self.add("kill -9: runs that were under way", orphans, "")
        self.add("kill -9: until a new process has them all, its start included", taken_over, "s")

    async def _signals(self) -> None:
        rate = await flows.signalled(self.stand, self.sizes.of(10_000, least=1000))
        self.add("signals, each ends a run that waits, 50 callers", rate, target=1_000)

    async def _sleepers(self) -> None:
        sleepers, many = self.sizes.of(10_000, least=500), self.sizes.of(100_000, least=1000)
        began = perf_counter()
        size, statements = await flows.sleeping(self.stand, sleepers)
        if (perf_counter() - began) * many / sleepers < self.left():
            sleepers = many
            size, statements = await flows.sleeping(self.stand, many)
        self.add(f"memory for each of {sleepers:,} sleeping runs", size, "bytes")
        name = f"statements beside {sleepers:,} sleeping runs"
        self.add(name, statements, "a second", target=2, less_is_better=True)

    def _beside(self, peer: Peer) -> Callable[[], Awaitable[None]]:
        async def measure() -> None:
            for at_once in TARGETS:
                try:
                    found = await flow_rotation.run(peer, self.stand, runs=self._some(at_once), at_once=at_once)
                except (EnvironmentLacking, PeerFailed) as failed:
                    # a peer that fails takes none of the other figures with it, and the page names it
                    self.console.print(f"      {peer.name} failed with {at_once} in flight, and is left out: {failed}")
                    self.words += f"\n- {peer.name} failed with {at_once} in flight in round {self.turn}: {failed}."
                    return
                name = f"start to end, {at_once} in flight: {peer.name}"
                self.add(name, found["rate"])
                self.add(f"{name}: chimpbase in times of it", self.rates[at_once] / found["rate"], "times")
                self.add(f"{name}, p50", found["p50"], "ms")

        return measure


async def _member(role: str, dsn: str) -> Process:
    member = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.flow_member", role, dsn, stdin=PIPE, stdout=PIPE
    )
    assert member.stdout is not None
    await member.stdout.readline()
    return member


async def _go(member: Process) -> None:
    assert member.stdin is not None
    member.stdin.write(b"\n")
    await member.stdin.drain()
