"""A worker whose module takes its time to be imported, in a child of the process that SLOW_FOR names."""

from __future__ import annotations

import os
import threading

from chimpbase import Queue, Retry, SyncCtx, worker

if os.environ.get("SLOW_FOR") == str(os.getppid()):
    threading.Event().wait(1.0)

slow = Queue("slow", int)


@worker(slow, executor="process", timeout=0.5, retry=Retry(max_attempts=1))
def labour_slowly(ctx: SyncCtx, n: int) -> None:
    ctx.db.execute("insert into ledger values ('slow', $1)", str(n))
