"""Every primitive, and every kind of handler to use it in; at the top of a module, for a child process imports it."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from chimpbase import (
    App,
    Ctx,
    Entry,
    Event,
    Occurrence,
    Queue,
    Retry,
    Signal,
    Stream,
    SyncCtx,
    Wf,
    action,
    consumer,
    cron,
    on_broadcast,
    step,
    subscribe,
    worker,
    workflow,
)

PRIMITIVES = ("publish", "enqueue", "kv", "collection", "stream", "cron", "broadcast", "workflow", "call", "db")
NEVER = "0 0 29 2 *"
ONCE = Retry(max_attempts=1)


@dataclass
class Errand:
    """Use one primitive, leaving `tag` as its trace, and then fail or not."""

    primitive: str
    tag: str
    fail: bool


class Refused(Exception):
    """What a handler raises after it has done all it was to do."""


todo, happened, rung, log = Queue("todo", str), Event("happened", str), Event("rung", str), Stream("log", str)
woken = Signal("woken", str)
both = ("async", "plain")
sent = {kind: Event(f"sent.{kind}", Errand) for kind in both}
inlined = {kind: Event(f"inlined.{kind}", Errand) for kind in both}
cried = {kind: Event(f"cried.{kind}", Errand) for kind in both}
jobs = {kind: Queue(f"jobs.{kind}", Errand) for kind in (*both, "child")}
entries = {kind: Stream(f"entries.{kind}", Errand) for kind in both}


async def use(ctx: Any, errand: Errand) -> None:
    """Use the primitive, with a ctx of either face, and see it from inside the transaction where that can be."""
    tag = errand.tag
    match errand.primitive:
        case "publish":
            await _got(ctx.pubsub.publish(happened, tag))
        case "enqueue":
            await _got(ctx.queue.enqueue(todo, tag))
        case "kv":
            await _got(ctx.kv.set(tag, tag))
            assert await _got(ctx.kv.get(tag)) == tag
        case "collection":
            inserted = await _got(ctx.collection("papers").insert({"tag": tag}))
            assert [one.id for one in await _got(ctx.collection("papers").find({"tag": tag}))] == [inserted.id]
        case "stream":
            await _got(ctx.stream.append(log, tag))
            assert tag not in [entry.payload for entry in await _got(ctx.stream.read(log, backward=True))]
        case "cron":
            await _got(ctx.cron.schedule(tag, NEVER, to=todo, payload=tag))
            assert (await _got(ctx.cron.get(tag))).to == "todo"
        case "broadcast":
            await _got(ctx.pubsub.broadcast(rung, tag))
        case "workflow":
            started = await _got(ctx.workflow.start(rest, tag, id=f"rest.{tag}"))
            await _got(ctx.workflow.signal(started, woken, tag))
            run = await _got(ctx.workflow.get(started))
            assert (run.id, run.version, run.status) == (started.id, 1, "running")
        case "call":
            assert await _got(ctx.call(keep_key, f"called {tag}")) == "kept"
        case "db":
            await _got(ctx.db.execute("insert into paper values ($1)", tag))
            assert await _got(ctx.db.fetch_value("select count(*) from paper where tag = $1", tag)) == 1
        case _:
            raise AssertionError(errand)
    if errand.fail:
        raise Refused(tag)


async def traces(ctx: Ctx, tag: str) -> set[str]:
    """Which primitives left that trace, as another transaction sees it once everything has run."""
    seen = {
        "publish": await ctx.kv.get(f"happened {tag}"),
        "enqueue": await ctx.kv.get(f"worked {tag}"),
        "kv": await ctx.kv.get(tag),
        "collection": await ctx.collection("papers").find_one({"tag": tag}),
        "stream": tag in [entry.payload for entry in await ctx.stream.read(log, backward=True)],
        "cron": await ctx.cron.list(prefix=tag),
        "broadcast": await ctx.kv.get(f"rung {tag}"),
        "workflow": await ctx.kv.get(f"woken {tag}"),
        "call": await ctx.kv.get(f"called {tag}"),
        "db": await ctx.db.fetch("select from paper where tag = $1", tag),
    }
    return {primitive for primitive, trace in seen.items() if trace}


async def _got(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _plainly(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what awaits nothing, as with a ctx whose verbs answer at once."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a verb of a plain function's ctx was to be awaited")


@worker(todo)
async def do(ctx: Ctx, tag: str) -> None:
    await ctx.kv.set(f"worked {tag}", value=True)


@subscribe(happened)
async def on_happened(ctx: Ctx, tag: str) -> None:
    await ctx.kv.set(f"happened {tag}", value=True)


@on_broadcast(rung)
async def on_rung(ctx: Ctx, tag: str) -> None:
    await ctx.kv.set(f"rung {tag}", value=True)


@action
async def keep_key(ctx: Ctx, key: str) -> str:
    await ctx.kv.set(key, value=True)
    return "kept"


@step
async def wake(ctx: Ctx, tag: str) -> None:
    await ctx.kv.set(f"woken {tag}", value=True)


@workflow("rest", version=1)
async def rest(wf: Wf, tag: str) -> None:
    await wf.wait(woken)
    await wake(wf, tag)


@workflow("rest", version=2)
async def rest_otherwise(wf: Wf, tag: str) -> None:
    raise AssertionError("the first version was meant")


@action(name="act.async")
async def act(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@action(name="act.plain")
def act_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@worker(jobs["async"], retry=ONCE)
async def work(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@worker(jobs["plain"], retry=ONCE)
def work_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@worker(jobs["child"], retry=ONCE, executor="process")
def work_in_a_child(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@subscribe(sent["async"], retry=ONCE)
async def hear(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@subscribe(sent["plain"], retry=ONCE)
def hear_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@subscribe(inlined["async"], dispatch="inline")
async def join(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@subscribe(inlined["plain"], dispatch="inline")
def join_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@on_broadcast(cried["async"])
async def answer(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@on_broadcast(cried["plain"])
def answer_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@cron(name="tick.async", retry=ONCE)
async def tick(ctx: Ctx, due: Occurrence[Errand]) -> None:
    await use(ctx, due.payload)


@cron(name="tick.plain", retry=ONCE)
def tick_plainly(ctx: SyncCtx, due: Occurrence[Errand]) -> None:
    _plainly(use(ctx, due.payload))


@consumer(entries["async"], batch=1, retry=ONCE)
async def keep(ctx: Ctx, batch: list[Entry[Errand]]) -> None:
    for entry in batch:
        await use(ctx, entry.payload)


@consumer(entries["plain"], batch=1, retry=ONCE)
def keep_plainly(ctx: SyncCtx, batch: list[Entry[Errand]]) -> None:
    for entry in batch:
        _plainly(use(ctx, entry.payload))


@step(retry=ONCE)
async def go(ctx: Ctx, errand: Errand) -> None:
    await use(ctx, errand)


@step(retry=ONCE)
def go_plainly(ctx: SyncCtx, errand: Errand) -> None:
    _plainly(use(ctx, errand))


@workflow("walk.async", version=1)
async def walk(wf: Wf, errand: Errand) -> None:
    await go(wf, errand)


@workflow("walk.plain", version=1)
async def walk_plainly(wf: Wf, errand: Errand) -> None:
    await go_plainly(wf, errand)


def everywhere() -> App:
    handlers: list[Any] = [
        keep_key,
        rest,
        do,
        on_happened,
        on_rung,
        act,
        act_plainly,
        work,
        work_plainly,
        work_in_a_child,
    ]
    handlers += [hear, hear_plainly, join, join_plainly, answer, answer_plainly, tick, tick_plainly]
    handlers += [keep, keep_plainly, walk, walk_plainly, keep_key, rest, rest_otherwise]
    return App("everywhere", register=[todo, happened, rung, log, *handlers])
