"""A cron that fires each second and writes down for which instant."""

from __future__ import annotations

from chimpbase import App, Ctx, Occurrence

app = App("ticks")


@app.cron("* * * * * *")
async def tick(ctx: Ctx, due: Occurrence) -> None:
    await ctx.db.execute("insert into ledger (who, note) values ('tick', $1)", due.due_at.isoformat())
