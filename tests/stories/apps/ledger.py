"""Accounts and transfers under fire: each job moves money and says so in the ledger; some fail now and then."""

from __future__ import annotations

import random

from chimpbase import App, Ctx, Queue, Retry, SyncCtx

app = App("bank")
ACCOUNTS = 20
RETRY = Retry(max_attempts=50, first=0.05, cap=0.2)  # type: ignore[arg-type]
receipts = Queue("receipt", int)


@app.worker("transfer", retry=RETRY)
async def transfer(ctx: Ctx, n: int) -> None:
    await ctx.db.execute("insert into ledger (who, note) values ('transfer', $1)", str(n))
    # in the order of their numbers, so that two transfers never wait for each other
    for account, amount in sorted([(n % ACCOUNTS, -1), ((n * 7 + 1) % ACCOUNTS, 1)]):
        await ctx.db.execute("update account set balance = balance + $2 where id = $1", account, amount)
    await ctx.queue.enqueue(receipts, n, delay=random.choice([None, 0.05]))
    if random.random() < 0.05:
        raise ValueError("it happens")


@app.worker(receipts, retry=RETRY)
def receipt(ctx: SyncCtx, n: int) -> None:
    ctx.db.execute("insert into ledger (who, note) values ('receipt', $1)", str(n))
