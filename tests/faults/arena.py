"""The arena: one PostgreSQL with an honest disk, a fleet of processes on it, producers, and the books they fill."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.flood import ACCOUNTS, MAX_ATTEMPTS
from tests.faults.herd import Herd
from tests.faults.invariants import one_query
from tests.faults.ledger import Books, ClientLog, Violation, check, read_log
from tests.faults.pooler import Pooler
from tests.pg.proxy import Proxy, proxy_before
from tests.running import the_value
from tests.stories.fleet import Fleet, Member
from tests.waiting import passing, until

MODULE = "tests.faults.flood"
_TABLES = f"""
    create table effect (n int, job bigint, attempt int, pid int, at timestamptz default clock_timestamp());
    create table account (id int primary key, balance int not null);
    insert into account select n, 0 from generate_series(0, {ACCOUNTS - 1}) n;
"""
#: What a connection of the suite itself may meet while faults are done.
GONE = (
    *(OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError),
    asyncpg.InternalClientError,  # what the driver says when the connection ends between two of its own states
)


@dataclass(kw_only=True)
class Arena:
    """What a fault can reach. `hits` counts what it did; jobs flow once it is `prepared`."""

    server: EmbeddedServer
    database: str
    directory: Path
    seed: int
    dice: random.Random
    fleet: Fleet
    log: ClientLog
    size: int = 4
    seconds: float = 10.0
    deadlocks_are_mine: bool = False
    proxy: Proxy | None = None
    pooler: Pooler | None = None
    hits: dict[str, int] = field(default_factory=dict[str, int])
    stops: list[int] = field(default_factory=list[int])
    prepared: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    environ: dict[str, str] = field(default_factory=dict[str, str])
    resumed_s: list[float] = field(default_factory=list[float])
    taken_over_s: list[float] = field(default_factory=list[float])
    mishaps: list[str] = field(default_factory=list[str])
    _asked: int = 0
    _ready: list[Member] = field(default_factory=list[Member])
    _deadlocks: int = 0
    _mustering: asyncio.Task[None] | None = None
    _errands: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def dsn(self) -> str:
        """Straight to the server, wherever it is now."""
        return urlunsplit(urlsplit(self.server.dsn)._replace(path=f"/{self.database}"))

    def hit(self, what: str, times: int = 1) -> None:
        self.hits[what] = self.hits.get(what, 0) + times

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.fleet.members if member.alive]

    @property
    def spare(self) -> list[Member]:
        """Those that work, where all but one of the fleet do: who is killed next, leaves somebody to take over."""
        working = [member for member in self._ready if member.alive]
        return working if len(working) >= max(2, self.size - 1) else []

    async def until_over(self, seconds: float) -> bool:
        """Let so much time pass; False once the fighting is over."""
        try:
            await asyncio.wait_for(self.over.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def muster(self) -> None:
        """Bring the fleet back to its size."""
        while len(self.alive) < self.size and not self.over.is_set():
            await self.recruit()

    def reinforce(self) -> None:
        """The same, beside the fight."""
        if self._mustering is None or self._mustering.done():
            self._mustering = self.meanwhile(self.muster())

    async def kill(self, member: Member) -> None:
        """SIGKILL, and a clock that runs until its jobs are in other hands."""
        pid = member.pid
        await member.kill()
        self.hit("kills")
        self.meanwhile(self._time_the_takeover(pid))

    def meanwhile(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it beside the fight, which does not wait for it; but `settle` does."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_ended)
        return task

    def _errand_ended(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.mishaps.append(f"the suite itself: {type(error).__name__}: {error}")

    async def _time_the_takeover(self, pid: int) -> None:
        began = monotonic()
        connection: asyncpg.Connection | None = None
        try:
            connection = await self.connect()
            held = await connection.fetch(
                """
                select job.id, attempt from chimpbase.job
                join chimpbase.process on process.id = process where pid = $1
                """,
                pid,
            )
            if held:
                jobs, attempts = [row["id"] for row in held], [row["attempt"] for row in held]
                await until(lambda: _begun_anew(connection, jobs, attempts), deadline_s=20)
                self.taken_over_s.append(monotonic() - began)
        except AssertionError:
            self.taken_over_s.append(monotonic() - began)
        except GONE:
            pass  # another fault has ended the watch
        finally:
            if connection is not None:
                connection.terminate()

    async def recruit(self, **order: Any) -> Member | None:
        """One more member. Half of them pretend to be on other machines, so that only their leases tell of them."""
        n = len(self.fleet.members)
        given: dict[str, Any] = {
            "host": f"host {n}" if n % 2 else None,
            "environ": self.environ,
            **self.settings,
            **order,
        }
        member = await self.fleet.launch(**given)
        try:
            await member.ready(within_s=40)
        except (AssertionError, TimeoutError):
            await member.kill()  # it came while there was no server
            return None
        self._ready.append(member)
        return member

    async def connect(self, *, within_s: float = 60) -> asyncpg.Connection:
        """A connection, as soon as there is a server."""
        return await connected(self.dsn, within_s=within_s)

    async def produce(self, jobs: int) -> None:
        """Ask for so many jobs, half of them plain, evenly over the time; some transactions are taken back."""
        connection = await self.connect()
        batch, began = 20, monotonic()
        for first in range(0, jobs, batch):
            numbers = list(range(self._asked, self._asked + batch))
            self._asked += batch
            queue = ("transfer", "plain", "transfer", "plain", "limited")[(first // batch) % 5]
            answer = await self._ask(connection, queue, numbers, take_back=first % (batch * 10) == 0)
            self.log.write(answer, numbers, queue=queue)
            if connection.is_closed():
                connection = await self.connect()
            ahead_s = began + self.seconds * first / jobs - monotonic()
            if ahead_s > 0:
                await passing(ahead_s)
        await connection.close()

    async def _ask(self, connection: asyncpg.Connection, queue: str, numbers: list[int], *, take_back: bool) -> str:
        self.log.write("invoke", numbers, queue=queue)
        sent = False
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                "select chimpbase.enqueue($1, to_jsonb(n)) from unnest($2::int[]) n", queue, numbers, timeout=10
            )
            if take_back:
                await transaction.rollback()
                return "fail"
            sent = True
            await connection.execute("commit", timeout=10)
        except GONE:
            connection.terminate()
            return "unknown" if sent else "fail"
        return "ok"

    async def settle(self, *, within_s: float = 60) -> list[Violation]:
        """Let everything come to its end, stop the fleet cleanly, and judge the books."""
        connection = await self.connect()
        try:
            await until(lambda: _is_idle(connection), deadline_s=within_s)
        except AssertionError:
            pass  # the books will show what is stuck
        if self._errands:
            await asyncio.wait(self._errands)
        for member in self.alive:
            self.stops.append(await member.stop())
        books = await self._books(connection)
        await connection.close()
        return check(books)

    async def _books(self, connection: asyncpg.Connection) -> Books:
        effects = [tuple(row) for row in await connection.fetch("select n, job, attempt from effect")]
        left = await connection.fetch("""
            select payload, tableoid::regclass::text from chimpbase.job union all
            select payload, tableoid::regclass::text from chimpbase.job_wait union all
            select payload, tableoid::regclass::text from chimpbase.job_later union all
            select payload, tableoid::regclass::text from chimpbase.job_dead
        """)
        broken = [f"{rule}: {what}" for rule, what in await connection.fetch(one_query())]
        broken += self.mishaps
        broken += [f"a clean stop ended with {code}" for code in self.stops if code]
        notes = self.directory / "notes"
        deadlocks = 0 if self.deadlocks_are_mine else deadlocks_of(self.server)
        # of this server's whole life: each fight begins where the one before ended
        return Books(
            asked=read_log(self.log.path),
            effects=[(n, job, attempt) for n, job, attempt in effects],
            notes=notes.read_text().splitlines() if notes.exists() else [],
            left=[(int(payload) if payload.isdigit() else -1, table) for payload, table in left],
            balance=await the_value(connection, "select sum(balance) from account"),
            most_attempts=MAX_ATTEMPTS,
            deadlocks=max(0, deadlocks - self._deadlocks),
            broken=broken,
        )


async def _begun_anew(connection: asyncpg.Connection | None, jobs: list[int], attempts: list[int]) -> bool:
    """Whether each has been begun again since these attempts, or is done with."""
    assert connection is not None
    sql = """
        select 1 from unnest($1::bigint[], $2::int[]) as held (id, attempt)
        join chimpbase.job on job.id = held.id and job.attempt <= held.attempt limit 1
    """
    return await connection.fetchval(sql, jobs, attempts) is None


async def _is_idle(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval(
        "select exists (select from chimpbase.job union all select from chimpbase.job_wait "
        "union all select from chimpbase.job_later)"
    )


async def connected(dsn: str, *, within_s: float = 60) -> asyncpg.Connection:
    """A connection, as soon as the server takes one: it may be recovering from what was done to it before."""
    deadline = monotonic() + within_s
    while True:
        try:
            return await asyncpg.connect(dsn, timeout=10)
        except GONE:
            if monotonic() > deadline:
                raise
        await passing(0.05)


@asynccontextmanager
async def arena_of(
    server: EmbeddedServer, directory: Path, *, seed: int, size: int, seconds: float, network: str = "", **settings: Any
) -> AsyncGenerator[Arena]:
    """An arena on a database of its own, with its fleet at work."""
    database = f"arena_{seed}_{uuid4().hex[:8]}"
    directory = directory / database
    directory.mkdir()
    async with AsyncExitStack() as stack:
        log = ClientLog(directory / "client.log")
        stack.callback(log.close)
        house = await connected(server.dsn)
        await house.execute(f"create database {database}")
        await house.close()
        fleet = Herd(MODULE, "", directory)
        stack.push_async_callback(fleet.end)
        arena = Arena(
            server=server,
            database=database,
            directory=directory,
            seed=seed,
            dice=random.Random(seed),
            fleet=fleet,
            log=log,
            size=size,
            seconds=seconds,
            settings=settings,
            _deadlocks=deadlocks_of(server),
            environ={"FLOOD_NOTES": str(directory / "notes")},
        )
        connection = await arena.connect()
        await connection.execute(_TABLES)
        await _lay_network(arena, network, stack)
        await arena.recruit()
        # being in the wrong place many times by chance is not what this is about
        await connection.execute("update chimpbase.queue set max_crashes = 1000 where name <> 'poison'")
        await connection.close()
        yield arena


async def _lay_network(arena: Arena, network: str, stack: AsyncExitStack) -> None:
    """The fleet's way to the server: straight, through the proxy, or through a pooler behind a proxy."""
    way = arena.dsn
    if network:
        proxy = await stack.enter_async_context(proxy_before(arena.dsn))
        way = proxy.dsn
        if network == "pgbouncer":
            arena.pooler = Pooler(proxy.dsn, arena.directory)
            await arena.pooler.start()
            stack.push_async_callback(arena.pooler.kill)
            way = arena.pooler.dsn
        else:
            arena.proxy = proxy
    arena.fleet.redirect(way)


def deadlocks_of(server: EmbeddedServer) -> int:
    """How often the server had to end a deadlock, by its own log."""
    return server.log_file.read_text(errors="replace").count("deadlock detected")


def backends(server: EmbeddedServer) -> tuple[int, list[int]]:
    """The postmaster's process id and those of its children."""
    postmaster = int((server.data_directory / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return postmaster, [int(child) for child in children]


async def crash(arena: Arena) -> None:
    """PostgreSQL stops without a checkpoint, as after a power cut, and is started again."""
    postmaster, _ = backends(arena.server)
    os.kill(postmaster, signal.SIGQUIT)
    await ended(postmaster)
    await arena.server.ensure()


async def ended(pid: int) -> None:
    """Until that process is gone."""
    place = Path(f"/proc/{pid}")
    await until(lambda: not place.exists(), deadline_s=20)
