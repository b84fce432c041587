"""Random workflows: programs made from a seed, a workflow that follows them, and what a run of one has done.

A program decides nothing by chance once it is made, and no two of its branches compete for a signal, so each of its
runs must give the same and do the same. Instants are whole hours, messages come at half past: what an interrupted
activation costs is far less than either.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from chimpbase import App, Ctx, Retry, Signal, Stream, SyncCtx, Wf, errors, step

HOUR = timedelta(hours=1)
Node = list[Any]
said = Stream("said", int)


class Maker:
    """Makes one program. `signals` are what its run is sent: (after how many hours, name, payload)."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.signals: list[tuple[int, str, int]] = []
        self._ids = 0

    def program(self) -> Node:
        """A sequence; now and then one that fails at its end, so that what it did is undone."""
        body = [self._node(2, root=True) for _ in range(self.random.randint(2, 5))]
        if self.random.random() < 0.2:
            body.append(["raise", self._id()])
        return ["seq", *body]

    def _node(self, depth: int, *, root: bool) -> Node:
        choice = self.random.random()
        if depth and choice < 0.3:
            kind = self.random.choice(["gather", "tasks", "map", "loop", "seq"])
            body = [self._node(depth - 1, root=root and kind != "loop") for _ in range(self.random.randint(2, 3))]
            return ["loop", self.random.randint(2, 3), *body[:2]] if kind == "loop" else [kind, *body]
        if depth and choice < 0.38:
            return ["child", self._id(), *[self._node(0, root=False) for _ in range(2)]]
        if choice < 0.55:
            return self._rest(root)
        return self._deed()

    def _deed(self) -> Node:
        kind = self.random.choice(
            ["write", "write", "sync", "block", "flaky", "patient", "fail", "pure", "lazy", "emit"]
        )
        return ["undo", self._id()] if self.random.random() < 0.1 else [kind, self._id()]

    def _rest(self, root: bool) -> Node:
        kind, id = self.random.choice(["sleep", "wait", "select", "wait"]), self._id()
        hours = self.random.randint(1, 3)
        if kind != "sleep" and root:
            for n in range(self.random.choice([0, 1, 1, 2])):
                self.signals.append((self.random.randint(0, 4), f"s{id}", id * 100 + n))
        return [kind, id, hours]

    def _id(self) -> int:
        self._ids += 1
        return self._ids


@step
async def write(ctx: Ctx, run: str, node: int) -> int:
    await ctx.db.execute("insert into effect values ($1, $2)", run, node)
    return node


@step
def write_plainly(ctx: SyncCtx, run: str, node: int) -> int:
    ctx.db.execute("insert into effect values ($1, $2)", run, node)
    return node


@step(durable="lazy")
async def look(ctx: Ctx, node: int) -> int:
    return node


@step(retry=Retry(max_attempts=2, first=timedelta(0)))
async def fail(ctx: Ctx, run: str, node: int) -> int:
    await ctx.db.execute("insert into effect values ($1, $2)", run, -node)
    raise ValueError(f"node {node}")


def build() -> App:
    """An app with the one workflow."""
    app, failures = App("random", [said]), Counter[tuple[str, int]]()

    async def fail_at_first(ctx: Ctx, run: str, node: int) -> int:
        await ctx.db.execute("insert into effect values ($1, $2)", run, node)
        failures[run, node] += 1
        if failures[run, node] < 3:
            raise ValueError(f"not yet, {node}")
        return node

    at_once, after_a_while = (
        Retry(max_attempts=9, first=timedelta(0)),
        Retry(max_attempts=9, first=timedelta(seconds=20)),
    )
    flaky = step(name="flaky", retry=at_once)(fail_at_first)
    patient = step(name="patient", retry=after_a_while)(fail_at_first)

    @app.workflow("flow")
    async def flow(wf: Wf, program: Node) -> Any:
        follower = Follower(wf, {"flaky": flaky, "patient": patient})
        return await follower.follow(program)

    return app


class Follower:
    """Does what a program says."""

    def __init__(self, wf: Wf, retried: dict[str, Callable[..., Any]]) -> None:
        self._wf, self._retried = wf, retried

    async def follow(self, node: Node) -> Any:
        """The result of a node."""
        return await getattr(self, f"_{node[0]}")(*node[1:])

    async def _seq(self, *body: Node) -> list[Any]:
        found = [await self.follow(one) for one in body]
        self._wf.state["done"] = self._wf.state.get("done", 0) + len(found)
        return found

    async def _gather(self, *body: Node) -> list[Any]:
        return list(await self._wf.gather(*(self.follow(one) for one in body)))

    async def _tasks(self, *body: Node) -> list[Any]:
        return list(await asyncio.gather(*(self.follow(one) for one in body)))

    async def _map(self, *body: Node) -> list[Any]:
        return await self._wf.map(self.follow, body, limit=2)

    async def _loop(self, times: int, *body: Node) -> list[Any]:
        return [await self._seq(*body) for _ in range(times)]

    async def _write(self, id: int) -> int:
        return await write(self._wf, self._wf.id, id)

    async def _sync(self, id: int) -> int:
        return await write_plainly(self._wf, self._wf.id, id)

    async def _lazy(self, id: int) -> int:
        return await look(self._wf, id)

    async def _flaky(self, id: int) -> int:
        return await self._retried["flaky"](self._wf, self._wf.id, id)

    async def _patient(self, id: int) -> int:
        return await self._retried["patient"](self._wf, self._wf.id, id)

    async def _fail(self, id: int) -> str:
        try:
            return str(await fail(self._wf, self._wf.id, id))
        except errors.StepFailed as error:
            return str(error)

    async def _pure(self, id: int) -> int:
        return await self._wf.step("pure", abs, -id)

    async def _block(self, id: int) -> list[Any]:
        async with self._wf.tx("block") as db:
            count = await db.execute("insert into effect values ($1, $2)", self._wf.id, id)
            return [
                count,
                await db.fetch_value("select count(*) from effect where run = $1 and node = $2", self._wf.id, id),
            ]

    async def _emit(self, id: int) -> None:
        await self._wf.emit(said, id)

    async def _undo(self, id: int) -> None:
        self._wf.undo(write, self._wf.id, 1000 + id)

    async def _raise(self, id: int) -> None:
        raise ValueError(f"the end, {id}")

    async def _sleep(self, id: int, hours: int) -> None:
        await self._wf.sleep_until(_whole_hour(self._wf.now()) + hours * HOUR)

    async def _wait(self, id: int, hours: int) -> Any:
        return await self._wf.wait(Signal(f"s{id}", int), timeout=self._left(hours), default="nobody")

    async def _select(self, id: int, hours: int) -> list[Any]:
        arms = {"heard": self._wf.signal(Signal(f"s{id}", int)), "late": self._wf.timer(self._left(hours))}
        return list(await self._wf.select(**arms))

    async def _child(self, id: int, *body: Node) -> Any:
        return await (await self._wf.start("flow", ["seq", ["write", id], *body]))

    def _left(self, hours: int) -> timedelta:
        return _whole_hour(self._wf.now()) + hours * HOUR - self._wf.now()


def _whole_hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
