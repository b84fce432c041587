"""The hot statements keep their plan, whatever the table looks like and whatever the planner was told of it.

The trap: statistics taken at rest say that hardly any job has a process. A statement that joins the ends of attempts
flatly is then planned to read the whole queue for each batch; it once made a drain many times slower.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from chimpbase import App
from chimpbase._app.runtime import _PINNED
from chimpbase._pg.statements import load

pytestmark = pytest.mark.anyio

JOBS, RUNS = load("chimpbase._store", "jobs.sql"), load("chimpbase._store", "runs.sql")
KEYS = load("chimpbase._store", "kv.sql")
BIRTHS, QUERIES = load("chimpbase._store", "run_births.sql"), load("chimpbase._store", "run_queries.sql")
ENDS = {
    "jobs.finish": JOBS.finish,
    "jobs.finish_alike": JOBS.finish_alike,
    "jobs.put_off": JOBS.put_off,
    "jobs.dead_letter": JOBS.dead_letter,
    "jobs.give_back": JOBS.give_back,
    "runs.load_journals": RUNS.load_journals,
    "runs.memo": RUNS.memo,
    "runs.finish": RUNS.finish,
}
FILL = """
insert into chimpbase.job (id, sort, queue, payload)
select id, id, 1 + id % 3, '1' from (select nextval('chimpbase.job_id') as id from generate_series(1, $1::int)) as new
"""
TABLES = {
    "empty": [],
    "small": [(FILL, 20)],
    "large": [(FILL, 30_000)],
    "dead-heavy": [(FILL, 30_000), ("delete from chimpbase.job where id > $1::int", 500)],
}


@pytest.fixture(params=TABLES)
async def connection(request: pytest.FixtureRequest, dsn: str) -> Any:
    async with App("plans").running(database_url=dsn, workers=False):
        pass
    connection = await asyncpg.connect(dsn, server_settings={**_PINNED, "plan_cache_mode": "force_generic_plan"})
    await connection.execute("alter table chimpbase.job set (autovacuum_enabled = off)")
    for statement, number in TABLES[request.param]:
        await connection.execute(statement, number)
    await connection.execute("analyze chimpbase.job")
    yield connection
    await connection.close()


async def plan(
    connection: asyncpg.Connection, sql: str, parameters: int, arguments: str | None = None
) -> list[dict[str, Any]]:
    """The nodes of a statement's generic plan, from the top down; without `arguments` they are all null."""
    await connection.execute(f"prepare planned as {sql}")
    arguments = arguments or ", ".join(["null"] * parameters)
    text = await connection.fetchval(f"explain (format json) execute planned({arguments})")
    await connection.execute("deallocate planned")
    nodes, waiting = list[dict[str, Any]](), [json.loads(str(text))[0]["Plan"]]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting += node.get("Plans", [])
    return nodes


@pytest.mark.parametrize("name", ENDS)
async def test_an_end_looks_each_job_up_by_its_id(connection: asyncpg.Connection, name: str) -> None:
    nodes = await plan(connection, ENDS[name].sql, len(ENDS[name].parameters))
    read = {
        (node["Node Type"], node.get("Index Name"))
        for node in nodes
        if node.get("Relation Name") == "job" and "Scan" in node["Node Type"]
    }
    assert read <= {("Index Scan", "job_pkey"), ("Index Only Scan", "job_pkey"), ("Tid Scan", None)}
    assert ("Index Scan", "job_pkey") in read or ("Index Only Scan", "job_pkey") in read


async def test_a_claim_walks_the_queue_in_order_and_sorts_nothing(connection: asyncpg.Connection) -> None:
    nodes = await plan(connection, JOBS.claim.sql, len(JOBS.claim.parameters))
    scans = [(node["Node Type"], node.get("Index Name")) for node in nodes if node.get("Relation Name") == "job"]
    assert ("Index Scan", "job_ready") in scans
    assert not [node for node in nodes if node["Node Type"] in ("Seq Scan", "Sort", "Incremental Sort", "Hash Join")]


async def test_runs_are_started_by_lookups_alone(connection: asyncpg.Connection) -> None:
    nodes = await plan(connection, BIRTHS.start.sql, len(BIRTHS.start.parameters))
    assert {node["Node Type"] for node in nodes} & {"Hash Join", "Merge Join", "Seq Scan"} == set()
    assert {node["Index Name"] for node in nodes if "Index Name" in node} >= {"workflow_pkey", "queue_pkey"}


async def test_those_who_wait_for_runs_look_each_up_by_its_id(connection: asyncpg.Connection) -> None:
    nodes = await plan(connection, QUERIES.list_ends.sql, 1)
    assert {(node["Node Type"], node.get("Index Name")) for node in nodes if node.get("Relation Name")} == {
        ("Index Scan", "run_id_key")
    }


async def test_keys_are_looked_up_each_by_itself_also_by_a_plan_made_when_there_were_none(dsn: str) -> None:
    async with App("plans").running(database_url=dsn, workers=False):
        pass
    connection = await asyncpg.connect(dsn, server_settings={**_PINNED, "plan_cache_mode": "force_generic_plan"})
    try:
        await connection.execute("insert into chimpbase.kv (namespace, key, value) values ('a', 'b', '1')")
        await connection.execute("vacuum analyze chimpbase.kv")
        nodes = await plan(connection, KEYS.get.sql, 3, "null, null, false")
    finally:
        await connection.close()
    reads = [node for node in nodes if node.get("Relation Name", "").startswith("kv")]
    assert reads
    assert all("ask.key" in node.get("Index Cond", "") for node in reads)
    assert not any("Join Filter" in node for node in nodes)
