"""Scenes: one small app in which every verb is used by something, and what each scene must leave behind.

A scene is played many times, each time with a fault at another statement. Whatever the fault, what is left is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from chimpbase import (
    App,
    Ctx,
    DeadLetter,
    Entry,
    Event,
    Limits,
    Occurrence,
    Queue,
    Retry,
    Signal,
    Snooze,
    Stream,
    Wf,
    step,
)
from chimpbase._core.errors import ChimpbaseError, OutcomeUnknown
from tests.running import the_value
from tests.waiting import until

follow, happened, go = Queue("follow", str), Event("happened", str), Signal("go", str)
log = Stream("log", str)
_SOON = Retry(max_attempts=3, first=timedelta(milliseconds=10))


async def note(ctx: Ctx, text: str) -> None:
    await ctx.db.execute("insert into ledger (who, note) values ('scene', $1)", text)


def build() -> App:
    """The app, made anew for each play."""
    app = App("scenes")
    _jobs(app)
    _more_jobs(app)
    _events(app)
    _flows(app)
    return app


def _jobs(app: App) -> None:
    @app.worker("write")
    async def write(ctx: Ctx, text: str) -> None:
        await note(ctx, text)

    @app.worker("relay")
    async def relay(ctx: Ctx, text: str) -> None:
        await ctx.queue.enqueue("write", text)
        await ctx.queue.enqueue("write", text, delay=timedelta(milliseconds=20))

    @app.worker("batch")
    async def batch(ctx: Ctx, text: str) -> None: ...

    @app.worker("plain", transaction=False)
    async def plain(ctx: Ctx, text: str) -> None:
        await ctx.kv.set("plain", text)

    @app.worker("flaky", retry=_SOON)
    async def flaky(ctx: Ctx, text: str) -> None:
        await note(ctx, text)
        if ctx.job.attempt == 1:
            raise ValueError("the first attempt fails")

    @app.worker("doomed", retry=Retry(max_attempts=1))
    async def doomed(ctx: Ctx, text: str) -> None:
        await note(ctx, text)
        raise ValueError("always")

    @app.worker("rejected")
    async def rejected(ctx: Ctx, text: str) -> DeadLetter:
        await note(ctx, text)
        return DeadLetter("wanted")

    @app.worker("snoozing")
    async def snoozing(ctx: Ctx, text: str) -> Snooze | None:
        # what a snoozed attempt wrote is kept, so the second one can tell that it is the second
        if await ctx.db.fetch_value("select exists (select from ledger where note = $1)", f"{text} 1"):
            await note(ctx, f"{text} 2")
            return None
        await note(ctx, f"{text} 1")
        return Snooze(timedelta(milliseconds=10))

    @app.worker(follow)
    async def on_follow(ctx: Ctx, text: str) -> None:
        await note(ctx, f"follow {text}")

    @app.cron("0 0 1 1 *")
    async def yearly(ctx: Ctx, due: Occurrence) -> None:
        await note(ctx, "yearly")

    @app.worker("held")
    async def held(ctx: Ctx, text: str) -> None:
        await asyncio.Event().wait()

    @app.worker("swapper")
    async def swapper(ctx: Ctx, text: str) -> None:
        if await ctx.kv.set("swapped", text, if_absent=True):
            await note(ctx, "swapped")


def _more_jobs(app: App) -> None:
    @app.worker("gated", limits=Limits(concurrency=1))
    async def gated(ctx: Ctx, text: str) -> None:
        await note(ctx, text)

    @app.worker("many", batch=10)
    async def many(ctx: Ctx, texts: list[str]) -> None:
        for text in texts:
            await note(ctx, text)

    @app.worker("filer")
    async def filer(ctx: Ctx, text: str) -> None:
        await ctx.collection("papers").put(text, {"text": text})
        await ctx.queue.enqueue(follow, text, unique=text)

    @app.worker("appender")
    async def appender(ctx: Ctx, text: str) -> None:
        await ctx.stream.append(log, text, key="k")


def _events(app: App) -> None:
    @app.consumer(log, name="keeper", retry=_SOON)
    async def keeper(ctx: Ctx, entries: list[Entry[str]]) -> None:
        for entry in entries:
            await note(ctx, f"read {entry.payload}")

    @app.subscribe(happened)
    async def one(ctx: Ctx, text: str) -> None:
        await note(ctx, f"one {text}")

    @app.subscribe(happened)
    async def two(ctx: Ctx, text: str) -> None:
        await note(ctx, f"two {text}")

    @app.worker("caller")
    async def caller(ctx: Ctx, text: str) -> None:
        await everything(ctx, text)

    @app.action
    async def act(ctx: Ctx, text: str) -> None:
        await everything(ctx, text)


async def everything(ctx: Ctx, text: str) -> None:
    await note(ctx, text)
    await ctx.queue.enqueue(follow, text)
    await ctx.pubsub.publish(happened, text)
    await ctx.kv.set("key", text)
    await ctx.workflow.start("journey", text, id=f"run {text}")


def _flows(app: App) -> None:
    @step
    async def written(ctx: Ctx, text: str) -> str:
        await note(ctx, text)
        return text

    async def plain(text: str) -> str:
        return text

    @app.workflow("journey")
    async def journey(wf: Wf, text: str) -> str:
        return await written(wf, f"journey {text}")

    @app.workflow("parent")
    async def parent(wf: Wf, text: str) -> str:
        child = await wf.start(journey, text, id="child")
        return await child

    @app.workflow("plain-steps")
    async def plain_steps(wf: Wf, text: str) -> str:
        return await wf.step("one", plain, text) + await wf.step("two", plain, text)

    @app.workflow("sleeper")
    async def sleeper(wf: Wf, text: str) -> str:
        await wf.sleep(0.02)
        return await written(wf, f"slept {text}")

    @app.workflow("listener")
    async def listener(wf: Wf, text: str) -> str | None:
        await written(wf, "before")
        return await wf.wait(go)


Arrange = Callable[[asyncpg.Connection], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """`arrange` sets it going, `act` lets the victim itself do so; then `notes` and `left` are all there is.

    The fault hits the statements whose names begin with one of `labels`, on the connections of `where`, from the moment
    `armed`. `unsure`: the fault may have prevented the act, and then nothing of it exists.
    """

    name: str
    where: str
    labels: frozenset[str]
    notes: tuple[str, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict[str, int])
    arrange: Arrange | None = None
    act: bool = False
    armed: str = "ready"
    unsure: bool = False
    empty: bool = False


def enqueued(queue: str, options: str = "{}") -> Arrange:
    async def arrange(outside: asyncpg.Connection) -> None:
        await outside.execute("select chimpbase.enqueue($1, '\"x\"', $2)", queue, options)

    return arrange


def enqueued_twice(queue: str) -> Arrange:
    async def arrange(outside: asyncpg.Connection) -> None:
        await outside.execute("select chimpbase.enqueue($1, '\"x\"') from generate_series(1, 2)", queue)

    return arrange


def started(workflow: str, *, signal: bool = False) -> Arrange:
    async def arrange(outside: asyncpg.Connection) -> None:
        await outside.execute('select chimpbase.start_workflow($1, \'"x"\', \'{"id": "r"}\')', workflow)
        if signal:
            await outside.execute("select chimpbase.signal('r', 'go', '\"s\"')")

    return arrange


async def cancelled(outside: asyncpg.Connection) -> None:
    """A job that never ends is cancelled, running or not."""
    job = await the_value(outside, "select chimpbase.enqueue('held', '\"x\"')")
    try:
        await until(lambda: _is_running(outside, job), deadline_s=1)
    except AssertionError:
        pass  # its process died first
    await outside.execute("select chimpbase.cancel($1)", job)


async def _is_running(outside: asyncpg.Connection, job: int) -> bool:
    return await the_value(outside, "select count(*) > 0 from chimpbase.job where id = $1 and attempt > 0", job)


async def make_due(outside: asyncpg.Connection) -> None:
    await outside.execute("update chimpbase.schedule set next_at = date_trunc('year', now()) where name = 'yearly'")


async def act(app: App) -> str:
    """Do everything; what its caller may believe: ok, failed or unknown."""
    try:
        await app.call("act", "x")
    except OutcomeUnknown:
        return "unknown"
    except (ChimpbaseError, asyncio.CancelledError):
        return "failed"
    return "ok"


LATER = enqueued("write", '{"delay": 0.8}')  # two heartbeats away
_TX = frozenset({"begin", "commit", "insert", "jobs", "events", "kv", "runs", "run_commands", "select"})
_ENGINE = frozenset({"jobs", "runs"})
_FLOWS = frozenset({"jobs", "runs", "run_commands", "run_queries"})
_READS = frozenset({"streams", "consumers", "begin", "commit"})
_ALL = ("follow x", "journey x", "one x", "two x", "x")
_MADE = {"event": 1, "kv": 1, "run": 1}

SCENES: tuple[Scene, ...] = (
    Scene(name="enqueue, publish, set, start", where="app", labels=_TX, act=True, notes=_ALL, left=_MADE, unsure=True),
    Scene(name="claim and finish", where="engine", labels=_ENGINE, arrange=enqueued("batch")),
    Scene(name="finish in the transaction", where="app", labels=_TX, arrange=enqueued("write"), notes=("x",)),
    # what a plain handler sets by itself shares its commit with others', on the engine's connections
    Scene(name="plain mode", where="engine", labels=_ENGINE | {"kv"}, arrange=enqueued("plain"), left={"kv": 1}),
    Scene(name="heartbeat", where="heart", labels=frozenset({"processes"}), arrange=LATER, notes=("x",)),
    Scene(name="fail and try again", where="engine", labels=_ENGINE, arrange=enqueued("flaky"), notes=("x",)),
    Scene(name="fail in the transaction", where="app", labels=_TX, arrange=enqueued("flaky"), notes=("x",)),
    Scene(name="dead letter", where="engine", labels=_ENGINE, arrange=enqueued("doomed"), left={"job_dead": 1}),
    Scene(
        name="dead letter in the transaction",
        where="app",
        labels=_TX,
        arrange=enqueued("rejected"),
        notes=("x",),
        left={"job_dead": 1},
    ),
    Scene(name="snooze", where="app", labels=_TX, arrange=enqueued("snoozing"), notes=("x 1", "x 2")),
    Scene(name="promote", where="engine", labels=_ENGINE, arrange=enqueued("write", '{"delay": 0.05}'), notes=("x",)),
    Scene(
        name="cron fire",
        where="engine",
        labels=frozenset({"schedules", "jobs", "begin", "commit"}),
        arrange=make_due,
        notes=("yearly",),
    ),
    Scene(name="publish and fan-out", where="app", labels=_TX, arrange=enqueued("caller"), notes=_ALL, left=_MADE),
    Scene(name="delivery", where="engine", labels=_ENGINE, arrange=enqueued("caller"), notes=_ALL, left=_MADE),
    Scene(name="step", where="engine", labels=_ENGINE, arrange=started("plain-steps"), left={"run": 1}),
    Scene(
        name="transactional step",
        where="app",
        labels=_TX,
        arrange=started("journey"),
        notes=("journey x",),
        left={"run": 1},
    ),
    Scene(
        name="sleep", where="engine", labels=_ENGINE, arrange=started("sleeper"), notes=("slept x",), left={"run": 1}
    ),
    Scene(
        name="signal",
        where="engine",
        labels=_ENGINE,
        arrange=started("listener", signal=True),
        notes=("before",),
        left={"run": 1},
    ),
    Scene(name="cancel", where="engine", labels=frozenset({"jobs", "cancels"}), arrange=cancelled),
    Scene(
        name="child", where="engine", labels=_FLOWS, arrange=started("parent"), notes=("journey x",), left={"run": 2}
    ),
    Scene(
        name="compare and set",
        where="app",
        labels=_TX,
        arrange=enqueued("swapper"),
        notes=("swapped",),
        left={"kv": 1},
    ),
    Scene(name="admit", where="engine", labels=_ENGINE | {"gates"}, arrange=enqueued("gated"), notes=("x",)),
    Scene(
        name="carry",
        where="engine",
        labels=_ENGINE | {"carried", "begin", "commit"},
        arrange=enqueued("relay"),
        notes=("x", "x"),
    ),
    Scene(name="batch", where="app", labels=_TX, arrange=enqueued_twice("many"), notes=("x", "x")),
    Scene(
        name="put a document, enqueue a unique job",
        where="app",
        labels=_TX | {"documents"},
        arrange=enqueued("filer"),
        notes=("follow x",),
    ),
    Scene(name="append", where="app", labels=_TX | {"streams"}, arrange=enqueued("appender"), notes=("read x",)),
    Scene(name="consume", where="engine", labels=_READS, arrange=enqueued("appender"), notes=("read x",)),
    Scene(
        name="migrate",
        where="app",
        labels=frozenset(),
        arrange=enqueued("write"),
        notes=("x",),
        armed="start",
        empty=True,
    ),
    Scene(
        name="stop",
        where="engine",
        labels=frozenset({"jobs", "processes", "begin", "commit"}),
        arrange=enqueued("write"),
        notes=("x",),
        armed="stop",
    ),
)
