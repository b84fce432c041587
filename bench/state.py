"""Events, key-value, streams, cron and collections against the raw limits of the same server, in the same round.

    python -m bench --only state              up to three rounds, written to bench/results/state.json and the page
    python bench/state.py --scale 0.1         one short round, nothing written

What is put in is counted when it is done: an event, a key, an entry, an occurrence or a document that is lost, doubled
or out of order fails the run. Redis runs beside the keys where redis-server is installed, and is left out with a word
where it is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # this folder has a queue.py: it must not be searched for imports
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from collections.abc import Sequence

from bench import state_limits
from bench.group import Group, Part
from bench.limits import commits, insert_rows
from bench.state_cron import Burst, due_jobs, ticks
from bench.state_documents import Documents, people
from bench.state_events import Events, topics
from bench.state_keys import Keys, durable
from bench.state_streams import Streams, log
from bench.timed import best_of
from chimpbase import App

_CALLERS = 64


class StateGroup(Group):
    """Everything but jobs and workflows."""

    name = "state"
    title = "Events, keys, streams, cron, collections"
    words = (
        "A raw limit is a bare statement on the same tables: 64 pairs in each on one connection for the keys, one "
        "commit for each event or entry on sixteen connections. Redis appends to a file on the same disk: `always` "
        "loses nothing in a crash, as we do; `everysec` loses up to a second."
    )

    async def prepare(self) -> None:
        """Make the tables and the queues."""
        subscriptions = [one for topic in topics() for one in topic.subscriptions]
        app = App("bench", register=[durable, people, log, ticks, *subscriptions])
        async with self.stand.running(app, workers=False):
            pass
        self.keys, self.events, self.streams = Keys(self), Events(self), Streams(self)
        self.burst, self.documents = Burst(self), Documents(self)

    async def calibrate(self) -> dict[str, float]:
        """Bare statements on the same tables."""
        stand, seconds = self.stand, self.sizes.seconds(1.0, least=0.5)
        both = [await state_limits.pairs(stand.dsn, batch=_CALLERS, seconds=seconds) for _ in range(2)]
        queue = await stand.queue(due_jobs.name)
        limits = {"set": max(one[0] for one in both), "get": max(one[1] for one in both)}
        for topic in topics():
            queues = [queue] * len(topic.subscriptions)
            limits[f"publish to {len(queues)}"] = await best_of(
                2, lambda queues=queues: state_limits.publishes(stand.dsn, queues=queues, seconds=seconds)
            )
        limits["append"] = await best_of(2, lambda: state_limits.appends(stand.dsn, seconds=seconds))
        limits["insert by the thousand"] = await best_of(2, lambda: insert_rows(stand.dsn, queue=queue, rows=50_000))
        limits["commits, 16 connections"] = await best_of(
            2, lambda: commits(stand.dsn, connections=16, seconds=seconds)
        )
        return limits

    def parts(self) -> Sequence[Part]:
        """Every workload, in order."""
        return [
            ("publish", self.events.publish),
            ("keys", self.keys.ours),
            ("keys of Redis", self.keys.redis),
            ("append to a stream", self.streams.append),
            ("tail of a stream", self.streams.tail),
            ("catch up with a stream", self.streams.catch_up),
            ("cron burst", self.burst.fire),
            ("collections", self.documents.all),
        ]


if __name__ == "__main__":
    from bench.__main__ import alone

    alone("state")
