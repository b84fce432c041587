"""Workers for child processes: at the top of a module, for the child imports it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from chimpbase import (
    KV,
    Cancel,
    Collection,
    Ctx,
    Occurrence,
    Queue,
    Retry,
    Stream,
    SyncCtx,
    cron,
    step,
    subscribe,
    worker,
)
from chimpbase.errors import NotFound


@dataclass
class Labour:
    kind: str
    n: int = 0
    path: str = ""


@dataclass
class Report:
    n: int


labours, hasty = Queue("labours", Labour), Queue("hasty", Labour)
reports, scores, strange = Collection("reports", Report), KV("scores", Report), KV("strange", Report)
followed = Queue("followed", Labour)
read_back, unread = Stream("read-back", Report), Stream("unread", Report)


@step
async def noted(ctx: Ctx, report: Report, *, twice: bool = False) -> Report:
    await ctx.db.execute("insert into ledger values ('step', $1)", str(report.n))
    return Report(report.n * 2) if twice else report


@step
def unregistered(ctx: SyncCtx) -> None: ...


@worker(labours, executor="process", concurrency=2, timeout=5, retry=Retry(max_attempts=1))
def labour(ctx: SyncCtx, work: Labour) -> Cancel | None:
    match work.kind:
        case "write":
            ctx.db.execute("insert into ledger values ('child', $1)", f"{work.n} {os.getppid()}")
            ctx.queue.enqueue(followed, Labour("follow", work.n))
            ctx.kv.set(f"attempt {work.n}", ctx.job.attempt)
            ctx.log.info("wrote %d", work.n)
        case "fail":
            ctx.db.execute("insert into ledger values ('child', 'failed')")
            raise NotFound("number", work.n)
        case "missing":
            ctx.queue.enqueue("no such queue", 1)
        case "die":
            ctx.db.execute("insert into ledger values ('child', 'died')")
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            raise SystemExit(3)
        case "hang":
            _hang(work)
        case "cancel":
            return Cancel("not wanted")
        case "typed":
            _keep_what_is_typed(ctx, Report(work.n))
        case "definitions":
            ctx.pubsub.publish(note_done, work.n)
            assert ctx.pubsub.replay(note_done) == 1
            ctx.queue.pause(note_done)
            ctx.queue.pause(tidy)
            ctx.queue.pause(follow)
            ctx.cron.schedule("soon", "0 0 29 2 *", to=tidy)
        case "function":
            ctx.kv.set("function", lambda: None)
        case "strange":
            ctx.kv(strange).set("report", Report(work.n))
        case "step":
            assert noted(ctx, Report(work.n), twice=True) == Report(work.n * 2)
        case "unregistered step":
            unregistered(ctx)
        case "append":
            ctx.stream.append(read_back, Report(work.n))
        case "read":
            assert [one.payload for one in ctx.stream.read(read_back)] == [Report(work.n)]
        case "unregistered stream":
            ctx.stream.append(unread, Report(work.n))
        case "lock":
            ctx.kv.lock("mine")
        case "on_commit":
            ctx.on_commit(lambda: None)
        case _:
            raise AssertionError(work.kind)
    return None


@worker(hasty, executor="process", timeout=1, retry=Retry(max_attempts=1))
def hurry(ctx: SyncCtx, work: Labour) -> None:
    _hang(work)


def _hang(work: Labour) -> None:
    Path(work.path).write_text(str(os.getpid()))
    while True:
        pass


@subscribe("labour.done", name="note-done")
def note_done(ctx: SyncCtx, n: int) -> None:
    ctx.db.execute("insert into ledger values ('noted', $1)", str(n))


@cron(name="tidy")
def tidy(ctx: SyncCtx, due: Occurrence) -> None: ...


def _keep_what_is_typed(ctx: SyncCtx, report: Report) -> None:
    document = ctx.collection(reports).insert(report)
    assert [one.value for one in ctx.collection(reports).find({"n": report.n})] == [report]
    assert ctx.collection(reports).update(document.id, inc={"n": 1}) == 1
    ctx.kv(scores).set("last", report)
    assert ctx.kv(scores).get("last") == report
    assert (ctx.kv.list(), ctx.kv("scores").list()) == ([], ["last"])


@worker(followed)
def follow(ctx: SyncCtx, work: Labour) -> None:
    ctx.db.execute("insert into ledger values ('parent', $1)", f"{work.n} {os.getpid()}")


errands = Queue("errands", dict[str, str], version=2)


@errands.upcast(from_version=1)
def in_full(old: str) -> dict[str, str]:
    return {"text": f"{old}, in full"}


@worker(errands, executor="process", concurrency=1)
def run_errand(ctx: SyncCtx, errand: dict[str, str]) -> None:
    ctx.db.execute("insert into ledger values ('child', $1)", errand["text"])
