"""A consumer that is killed at each of its statements."""

from __future__ import annotations

from chimpbase import App, Ctx, Entry, Stream

audit = Stream("audit", int)
app = App("consumers", register=[audit])


@app.consumer(audit, batch=2)
async def keep(ctx: Ctx, entries: list[Entry[int]]) -> None:
    for entry in entries:
        await ctx.db.execute("insert into ledger (who, note) values ('keep', $1)", str(entry.payload))
