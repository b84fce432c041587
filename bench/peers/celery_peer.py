"""Celery: prints one JSON line of figures. Arguments: the URL of an empty Redis, and the number of jobs.

The solo pool, which has no way between processes to pay for, acknowledged late so that a crash loses nothing, results
ignored, a thousand jobs prefetched. It has no call for many jobs: the bulk is one after another.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from celery import Celery
from celery.worker import state

url, jobs = sys.argv[1], int(sys.argv[2])
app = Celery("bench", broker=url)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1000,
    worker_concurrency=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_pool_limit=50,
)
seen: list[int] = []


@app.task(name="noop")
def noop(n: int) -> None:
    """Counts itself, and ends the worker after the last."""
    seen.append(n)
    if len(seen) == jobs:
        state.should_stop = 0


def main() -> None:
    """Enqueue, drain."""
    each = min(jobs // 10, 2000) // 50

    def call(first: int) -> None:
        for n in range(each):
            noop.apply_async((first * each + n,), queue="single")

    began = perf_counter()
    with ThreadPoolExecutor(50) as callers:
        list(callers.map(call, range(50)))
    single_s = perf_counter() - began
    began = perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(jobs):
            noop.apply_async((n,), producer=producer)
    bulk_s = perf_counter() - began
    worker = app.Worker(pool="solo", loglevel="ERROR", without_gossip=True, without_mingle=True, without_heartbeat=True)
    began = perf_counter()
    try:
        worker.start()
    except SystemExit:
        pass
    drain_s = perf_counter() - began
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": each * 50 / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}), flush=True)


if __name__ == "__main__":
    main()
