"""The workflows of bench.workflows in rounds, with raw limits before and after each."""

from __future__ import annotations

from collections.abc import Sequence

from bench import workflows
from bench.group import Group, Part
from bench.limits import commits
from bench.timed import best_of
from bench.workloads import noop, queue_limits
from chimpbase import App


class WorkflowGroup(Group):
    """Three steps one after another, every step durable."""

    name = "workflows"
    title = "Workflows of three steps"
    words = "Every step is durable before the next begins. Each step is counted as it runs and as it is stored."

    async def prepare(self) -> None:
        """Make the tables and a queue for the raw limits."""
        async with self.stand.running(App("bench", register=[noop]), workers=False):
            pass

    async def calibrate(self) -> dict[str, float]:
        """As for the queue."""
        limits = await queue_limits(self.stand, jobs=self.sizes.of(50_000, least=10_000))
        limits["commits, 16 connections"] = await best_of(2, lambda: commits(self.stand.dsn, connections=16, seconds=1))
        return limits

    def parts(self) -> Sequence[Part]:
        """By how many are in flight, and from a full queue."""
        return [
            ("1 in flight", lambda: self._flight(1, None)),
            ("50 in flight", lambda: self._flight(50, 5000)),
            ("500 in flight", lambda: self._flight(500, 15_000)),
            ("from a full queue", self._drain),
        ]

    async def _flight(self, at_once: int, target: float | None) -> None:
        runs = self.sizes.of(5000 if at_once > 1 else 300, least=1000 if at_once > 1 else 100)
        dsn, project = self.stand.dsn, self.stand.directory
        rate, latency_ms = await workflows.measure(dsn, project, runs=runs, at_once=at_once)
        self.add(f"start to end, {at_once} in flight", rate, target=target)
        self.add(f"start to end, {at_once} in flight: median of one", latency_ms, "ms")

    async def _drain(self) -> None:
        runs = self.sizes.of(5000, least=1000)
        self.add(
            "from a full queue, 500 in flight", await workflows.drain(self.stand.dsn, self.stand.directory, runs=runs)
        )
