"""The queue beside its peers: each in a database of its own on the same server, in an order that rotates.

A peer is a program that prints one line of JSON: jobs per second under `single` (50 callers, one at a time), `bulk` and
`drain`. It counts what it ran: a lost or doubled job fails it. A peer that cannot be installed is left out with a word.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.group import Group, Part
from bench.peers.environments import HERE, ROOT, EnvironmentLacking, node_modules, python_of
from bench.peers.titles import OURS, TITLES
from bench.redis_server import EVERY_SECOND, REDIS, redis
from bench.stand import Stand
from bench.workloads import bulk_rate, drain_rate, filled, noop, queue_limits, single_rate, write
from chimpbase import App

_ON_REDIS = "on a Redis of its own that appends to the disk every second, so a crash may take a second of jobs"
_PATIENCE_S = 180
_LIMITS = {"drain": "bare loop with history", "bulk": "insert by the thousand", "single": "insert by the thousand"}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`environment` is that of its packages, None for Node; `share` is how many of the jobs it gets: a slow one would
    take minutes. `words` say how it is run.
    """

    name: str
    program: str
    environment: str | None
    words: str
    share: float = 1.0
    on_redis: bool = False

    def command(self) -> list[str]:
        """What to run before its arguments.

        Raises:
            EnvironmentLacking: it cannot run here.
        """
        if self.on_redis and REDIS is None:
            raise EnvironmentLacking("redis-server is not installed")
        if self.environment is None:
            node_modules()
            return ["node", str(HERE / self.program)]
        return [python_of(self.environment), str(HERE / self.program)]


PEERS = (
    Peer(
        name="PgQueuer 1.6.0",
        program="pgqueuer_peer.py",
        environment="queues",
        words="asyncpg, batches of 1,000, drain mode, as in its own benchmark",
    ),
    Peer(
        name="Procrastinate 3.10.0",
        program="procrastinate_peer.py",
        environment="queues",
        words="concurrency 30, jobs not deleted: more or less of either was slower",
        share=0.03,
    ),
    Peer(
        name="Chancy 0.26.0",
        program="chancy_peer.py",
        environment="chancy",
        words="async executor, 1,000 at once, eager polling, leadership and recovery its only plugins, a push notifies",
        share=0.1,
    ),
    Peer(
        name="Awa 0.6.9",
        program="awa_peer.py",
        environment="awa",
        words="queue storage, 1,024 at once, the rest as by default; COPY in batches of 1,000 for the bulk",
        share=0.2,
    ),
    Peer(
        name="graphile-worker 0.17.3",
        program="graphile_peer.mjs",
        environment=None,
        words="the preset of its own performance test: a local queue of 500, completions batched, 24 at once",
    ),
    Peer(
        name="SAQ 0.26.4",
        program="saq_peer.py",
        environment="saq",
        words=f"{_ON_REDIS}, a hundred at once; it has no call for many jobs",
        share=0.1,
        on_redis=True,
    ),
    Peer(
        name="arq 0.28.0",
        program="arq_peer.py",
        environment="arq",
        words=f"{_ON_REDIS}, a hundred at once, a thousand read at a time, no results; it has no call for many jobs",
        share=0.1,
        on_redis=True,
    ),
    Peer(
        name="Celery 5.7.0",
        program="celery_peer.py",
        environment="celery",
        words=f"{_ON_REDIS}, solo pool, acknowledged late, a thousand prefetched; it has no call for many jobs",
        share=0.1,
        on_redis=True,
    ),
)


class PeersGroup(Group):
    """Ours first, then each peer; in the next round the order is another."""

    name = "peers"
    title = "The queue beside its peers"

    async def prepare(self) -> None:
        """Make the tables, and install whom we can."""
        self.app = App("bench", register=[noop, write])
        self.jobs = self.sizes.of(100_000, least=5000)
        self.commands: dict[str, list[str]] = {}
        self.rates: dict[str, dict[str, float]] = {}
        told = ["Each runs no-op jobs in its fastest known safe configuration, on the same server.",
                "Ours fences, counts attempts, and keeps one day of history."]  # fmt: skip
        for peer in PEERS:
            try:
                self.commands[peer.name] = peer.command()
                told.append(f"{peer.name}: {peer.words}.")
            except EnvironmentLacking as lacking:
                self.console.print(f"      {peer.name} is left out: {lacking}")
                told.append(f"{peer.name} was left out: {lacking}.")
        self.words = "\n".join(f"- {one}" for one in told)
        async with self.stand.running(self.app, workers=False):
            pass

    async def calibrate(self) -> dict[str, float]:
        """As for the queue."""
        return await queue_limits(self.stand, jobs=self.jobs)

    def parts(self) -> Sequence[Part]:
        """Everybody, from another one on in each round; then the ratios."""
        parts: list[Part] = [(OURS, self._ours)]
        parts += [(peer.name, self._theirs(peer)) for peer in PEERS if peer.name in self.commands]
        first = (self.turn - 1) % len(parts)
        return [*parts[first:], *parts[:first], ("ratios", self._ratios)]

    async def _ours(self) -> None:
        stand = self.stand
        await filled(stand, jobs=self.jobs)
        self.rates[OURS] = {
            "drain": await drain_rate(stand, self.app, jobs=self.jobs),
            "bulk": await bulk_rate(stand, self.app, jobs=self.jobs),
            "single": await single_rate(stand, self.app, callers=50, each=200),
        }
        await stand.clean()

    def _theirs(self, peer: Peer) -> Callable[[], asyncio.Future[None]]:
        return lambda: asyncio.ensure_future(self._measure(peer))

    async def _measure(self, peer: Peer) -> None:
        async with _place(peer, self.stand, self.turn) as url:
            jobs = str(max(2000, int(self.jobs * peer.share)))
            try:
                self.rates[peer.name] = await told_by(self.commands[peer.name], url, jobs)
            except PeerFailed as failed:
                # a peer that fails takes none of the other figures with it, and the page names it
                self.console.print(f"      {peer.name} failed and is left out: {failed}")
                self.words += f"\n- {peer.name} failed in round {self.turn} and was left out from there on: {failed}."
                del self.commands[peer.name]
                self.rates.pop(peer.name, None)

    async def _ratios(self) -> None:
        for kind, title in TITLES.items():
            ours = self.rates[OURS][kind]
            self.add(f"{title}: {OURS}", ours, limit=self.limits[_LIMITS[kind]])
            for name in self.commands:
                theirs = self.rates[name][kind]
                target = 2.0 if kind == "drain" and name.startswith("graphile") else None
                self.add(f"{title}: {name}", theirs)
                self.add(f"{title}: {OURS} in times of {name}", ours / theirs, "times", target=target)


class PeerFailed(Exception):
    """A peer's program ended without figures; its last line says why."""


async def told_by(command: Sequence[str], *arguments: str) -> dict[str, float]:
    """The line of JSON that a peer's program prints.

    Raises:
        PeerFailed: it failed, or took longer than three minutes.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        env={**os.environ, "PEERS_ROOT": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise PeerFailed(f"it was not done within {_PATIENCE_S} s") from None
    lines = [line for line in out.decode().splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        raise PeerFailed((err.decode().strip().splitlines() or ["no word"])[-1][:300])
    return json.loads(lines[-1])


@asynccontextmanager
async def _place(peer: Peer, stand: Stand, turn: int) -> AsyncGenerator[str]:
    """The URL of an empty database, or of an empty Redis."""
    if peer.on_redis:
        async with redis(EVERY_SECOND) as url:
            yield url
        return
    name = f"peer_{peer.name.split()[0].lower().replace('-', '_')}_{turn}"
    await stand.value(f'drop database if exists "{name}" with (force)')
    yield await stand.database(name)
    await stand.value(f'drop database "{name}" with (force)')
