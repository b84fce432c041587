"""Chaos: what is done to the processes, the server, the network and the clock while the jobs flow.

Each fault is a coroutine that goes on until the fighting is over, and counts what it did in `arena.hits`. Its number is
that of the table in docs/faults.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import asyncpg

from tests.faults.arena import GONE, Arena, backends, crash, ended
from tests.faults.pooler import why_no_pooler
from tests.running import the_value
from tests.waiting import passing, until

#: Numbers that nobody else uses.
_PROBES = 20_000_000
Deed = Callable[[Arena], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`network`: the fleet's way to the server leads through a proxy. `excuse` tells why it cannot be done here.

    The jobs of one that `prepares` flow only when it has set `arena.prepared`.
    """

    number: str
    name: str
    deed: Deed
    network: str = ""
    excuse: Callable[[], str] = lambda: ""
    prepares: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    number: str, name: str, *, network: str = "", excuse: Callable[[], str] = lambda: "", prepares: bool = False
) -> Callable[[Deed], Deed]:
    def register(deed: Deed) -> Deed:
        FAULTS[number] = Fault(number=number, name=name, deed=deed, network=network, excuse=excuse, prepares=prepares)
        return deed

    return register


@fault("F1", "worker killed (SIGKILL)")
async def kill_workers(arena: Arena) -> None:
    while await arena.until_over(arena.dice.uniform(0.3, 0.7)):
        if spare := arena.spare:
            await arena.kill(arena.dice.choice(spare))
        arena.reinforce()


@fault("F2", "worker stalled for two leases (SIGSTOP)")
async def stall_workers(arena: Arena) -> None:
    while await arena.until_over(0.3):
        if not arena.alive:
            await arena.muster()
        zombie = arena.dice.choice(arena.alive)
        zombie.stall()
        await passing(2.2)
        zombie.go_on()
        arena.hit("stalls")


@fault("F3", "event loop blocked for two leases")
async def block_loops(arena: Arena) -> None:
    connection = await arena.connect()
    n = 10_000_000
    while await arena.until_over(1.0):
        arena.log.write("invoke", [n], queue="blocking")
        await connection.execute("select chimpbase.enqueue('blocking', to_jsonb($1::int))", n)
        arena.log.write("ok", [n], queue="blocking")
        arena.hit("blocks")
        n += 1
    await connection.close()


@fault("F4", "backends terminated")
async def terminate_backends(arena: Arena) -> None:
    connection = await arena.connect()
    while await arena.until_over(0.2):
        try:
            victims = await the_value(
                connection,
                """
                select count(pg_terminate_backend(pid)) from (
                  select pid from pg_stat_activity
                  where datname = current_database() and application_name like 'chimpbase%'
                  order by random() limit 1) victims
                """,
            )
            arena.hit("backends", victims)
        except GONE:
            connection = await arena.connect()
    connection.terminate()


@fault("F5", "PostgreSQL crashed (immediate stop, or kill -9 of a backend)")
async def crash_server(arena: Arena) -> None:
    while await arena.until_over(arena.dice.uniform(0.3, 0.9)):
        _, children = backends(arena.server)
        if children and arena.dice.random() < 0.5:
            try:
                os.kill(arena.dice.choice(children), signal.SIGKILL)
            except ProcessLookupError:
                continue
        else:
            await crash(arena)
        arena.hit("crashes")
        await _time_the_return(arena)


async def _time_the_return(arena: Arena) -> None:
    """How long after the server's return a job that is enqueued then has been done."""
    connection = await arena.connect()
    began, probe = monotonic(), _PROBES + arena.hits["crashes"]
    try:
        arena.log.write("invoke", [probe], queue="transfer")
        await connection.execute("select chimpbase.enqueue('transfer', to_jsonb($1::int))", probe)
        arena.log.write("ok", [probe], queue="transfer")
        await until(lambda: _is_done(connection, probe), deadline_s=20)
    except AssertionError:
        pass  # as long as that, at least
    except GONE:
        return  # it was not down yet when it answered
    finally:
        connection.terminate()
    arena.resumed_s.append(monotonic() - began)


async def _is_done(connection: asyncpg.Connection, n: int) -> bool:
    return await the_value(connection, "select exists (select from effect where n = $1)", n)


@fault("F6", "PostgreSQL away for five leases")
async def take_server_away(arena: Arena) -> None:
    while await arena.until_over(1.0):
        postmaster, _ = backends(arena.server)
        # stopped, not ended: nobody starts another one, and nothing answers
        os.kill(postmaster, signal.SIGINT)
        await ended(postmaster)
        await passing(5)
        await arena.server.ensure()
        arena.hit("outages")


@fault("F7", "black hole: bytes are taken and nothing comes back", network="proxy")
async def freeze_network(arena: Arena) -> None:
    assert arena.proxy is not None
    while await arena.until_over(1.0):
        arena.proxy.freeze()
        await passing(arena.dice.uniform(0.5, 3))
        arena.proxy.thaw()
        arena.proxy.cut()
        arena.hit("freezes")


@fault("F8", "connection reset in COMMIT", network="proxy")
async def reset_in_commit(arena: Arena) -> None:
    assert arena.proxy is not None
    while await arena.until_over(0.05):
        arena.proxy.cut_at(b"commit", server=arena.dice.choice(["before", "after"]))
        await passing(0.05)
        arena.proxy.cut_at(b"\0never\0", server="before")
        arena.hit("resets")


@fault("F9", "latency 20 +- 15 ms for each piece of 100 bytes and more", network="proxy")
async def slow_network(arena: Arena) -> None:
    assert arena.proxy is not None
    while await arena.until_over(1.0):
        arena.proxy.slow_down(lambda: arena.dice.uniform(0.005, 0.035), piece=arena.dice.choice([100, 1400, 65536]))
        arena.hit("changes of pace")
    arena.proxy.speed_up()


@fault("F10", "partition: every connection cut, and none made for a lease", network="proxy")
async def partition(arena: Arena) -> None:
    assert arena.proxy is not None
    while await arena.until_over(1.0):
        arena.proxy.close_door()
        arena.proxy.cut()
        await passing(arena.dice.uniform(0.5, 2.5))
        arena.proxy.open_door()
        arena.hit("partitions")


@fault("F11", "listeners terminated, notifications lost")
async def deafen(arena: Arena) -> None:
    connection = await arena.connect()
    while await arena.until_over(0.1):
        victims = await the_value(
            connection,
            """
            select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and query ~ '^(listen|/. bell.ring)' and pid <> pg_backend_pid()
        """,
        )
        arena.hit("listeners", victims)
    await connection.close()


@fault("F12", "client killed while its statement waits for a lock")
async def kill_in_statement(arena: Arena) -> None:
    connection = await arena.connect()
    while await arena.until_over(0.3):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("lock table account in access exclusive mode")
        await passing(0.3)
        if spare := arena.spare:
            await arena.kill(arena.dice.choice(spare))
        await transaction.rollback()
        await arena.muster()
    await connection.close()


def _faketime() -> str:
    for place in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"):
        library = Path(place) / "faketime" / "libfaketime.so.1"
        if library.exists():
            return str(library)
    return ""


@fault(
    "F16",
    "wall clocks that are an hour off and step",
    excuse=lambda: "" if _faketime() else "libfaketime is absent",
    prepares=True,
)
async def shift_clocks(arena: Arena) -> None:
    faketime = _faketime()
    clock = arena.directory / "clock"
    clock.write_text("+0")
    environ = {
        **arena.environ,
        "LD_PRELOAD": faketime,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    for member in arena.alive:
        await member.stop()
    for _ in range(arena.size):
        await arena.recruit(environ=environ)
    arena.prepared.set()
    while await arena.until_over(0.3):
        clock.write_text(arena.dice.choice(["+600", "-600", "+3600", "-3600", "+1", "-1", "+0"]))
        arena.hit("steps")


@fault("F18", "one long transaction here, another in another database")
async def hold_transactions(arena: Arena) -> None:
    here, there = await arena.connect(), await asyncpg.connect(arena.server.dsn)
    await here.execute("begin isolation level repeatable read; select txid_current(), count(*) from effect")
    await there.execute("begin; create temp table held (n int)")
    arena.hit("transactions", 2)
    await arena.over.wait()
    here.terminate()
    there.terminate()


@fault("F19", "all transactions serializable, on hot rows", prepares=True)
async def serialize(arena: Arena) -> None:
    connection = await arena.connect()
    await connection.execute(f"alter database {arena.database} set default_transaction_isolation = 'serializable'")
    await connection.close()
    for member in arena.alive:
        await member.stop()
    await arena.muster()
    arena.hit("settings")
    arena.prepared.set()
    await arena.over.wait()


@fault("F20", "tables locked by an outsider")
async def lock_tables(arena: Arena) -> None:
    connection = await arena.connect()
    while await arena.until_over(0.5):
        table = arena.dice.choice(
            ["chimpbase.job", "chimpbase.job_later", "chimpbase.process", "effect", "chimpbase.queue"]
        )
        async with connection.transaction():
            await connection.execute(f"lock table {table} in access exclusive mode")
            await passing(arena.dice.uniform(0.2, 1.5))
        arena.hit("locks")
    await connection.close()


@fault("F25", "rolling restarts (SIGTERM)")
async def roll(arena: Arena) -> None:
    while await arena.until_over(0.2):
        if arena.alive:
            arena.stops.append(await arena.dice.choice(arena.alive).stop())
            arena.hit("stops")
        await arena.muster()


@fault("F23", "PgBouncer in transaction mode, killed and started again", network="pgbouncer", excuse=why_no_pooler)
async def kill_pooler(arena: Arena) -> None:
    assert arena.pooler is not None
    while await arena.until_over(2.0):
        await arena.pooler.kill()
        await passing(0.3)
        await arena.pooler.start()
        arena.hit("poolers")
