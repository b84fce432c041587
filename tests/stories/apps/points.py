"""A job that uses every primitive, and a workflow with every verb: what is killed at each of their statements."""

from __future__ import annotations

from chimpbase import App, Ctx, Event, Queue, Wf, step

app = App("points")
follow = Queue("follow", str)
happened = Event("happened", str)


async def note(ctx: Ctx, text: str) -> None:
    await ctx.db.execute("insert into ledger (who, note) values ('points', $1)", text)


@app.worker("first")
async def first(ctx: Ctx, text: str) -> None:
    await note(ctx, "first")
    await ctx.queue.enqueue(follow, text)
    await ctx.pubsub.publish(happened, text)
    await ctx.kv.set("key", text)


@app.worker(follow)
async def on_follow(ctx: Ctx, text: str) -> None:
    await note(ctx, "follow")


@app.subscribe(happened)
async def one(ctx: Ctx, text: str) -> None:
    await note(ctx, "one")


@app.subscribe(happened)
async def two(ctx: Ctx, text: str) -> None:
    await note(ctx, "two")


@step
async def write(ctx: Ctx, text: str) -> str:
    await note(ctx, text)
    return text


async def plain(text: str) -> str:
    return text


@app.workflow("journey")
async def journey(wf: Wf, text: str) -> str:
    said = await write(wf, "a")
    await wf.sleep(0.01)
    said += await wf.step("plain", plain, "p")
    said += await write(wf, "b")
    said += await wf.wait("go") or "?"
    return said + await write(wf, "c")


@app.workflow("little")
async def little(wf: Wf, text: str) -> str:
    return await write(wf, text)


@app.workflow("deep")
async def deep(wf: Wf, round: int) -> str:
    async with wf.tx("block") as db:
        await db.execute("insert into ledger (who, note) values ('points', $1)", f"block {round}")
    if round == 1:
        return await wf.continue_as(2)
    child = await wf.start("little", "child")
    one, two = await wf.gather(write(wf, "left"), wf.step("plain", plain, "right"))
    who, said = await wf.select(child=child, late=wf.timer(60))
    callback = await wf.callback("ask", str)
    late = await wf.wait(callback, timeout=0.01, default="late")
    wf.undo(write, "undone")
    return f"{one} {two} {who} {said} {late}"
