"""Mutations: known bugs, planted one at a time in a copy of the tree. The tests named beside each must find it.

`python -m tests.faults.mutations` (or `make mutations`) prints the table; its exit code is 0 when all were found. A bug
is a search and a replacement; `tests/faults/test_mutations.py` fails when the text to be replaced is no longer there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.faults.page import write_between

ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 240


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`old` is replaced by `new`, the first time it stands behind `after`."""

    name: str
    path: str
    old: str
    new: str
    after: str = ""
    tests: str


_JOBS, _RUNS, _FRAME = "_store/jobs.sql", "_store/runs.sql", "_app/frame.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="completion without the fence",
        path=_JOBS,
        after="-- name: finish",
        old="and process = :process\n      and attempt = done.attempt",
        new="and (process = :process or true)\n      and (attempt = done.attempt or true)",
        tests="tests/store/test_fences.py",
    ),
    Mutation(
        name="completions alike without the fence",
        path=_JOBS,
        after="-- name: finish_alike",
        old="and process = :process\n    and attempt = :attempt",
        new="and (process = :process or true)\n    and (attempt = :attempt or true)",
        tests="tests/store/test_fences.py",
    ),
    Mutation(
        name="a completion with the commit, without the fence",
        path="_schema/migrations/0004_create_unique_jobs.sql",
        after="chimpbase.settle_job",
        old="and j.process = settle_job.process and j.attempt = settle_job.attempt",
        new="",
        tests="tests/store/test_fences.py",
    ),
    Mutation(
        name="what is carried stored without the fence",
        path="_engine/finisher.py",
        after="async def _finish_with",
        old="for id, end in last.items() if id in held for one",
        new="for id, end in last.items() for one",
        tests="tests/app/test_luggage.py -k without_its_lease",
    ),
    Mutation(
        name="ids drawn long ago as places in the queue",
        path="_schema/migrations/0002_create_functions.sql",
        old="case when drawn then nextval('chimpbase.job_id') else new.id end",
        new="new.id",
        tests="tests/app/test_luggage.py -k long_ago",
    ),
    Mutation(
        name="completion after the commit",
        path="_app/handlers.py",
        old="await unit.commit(last=closing)",
        new="await unit.commit()\n                unit.committed = False",
        tests="tests/engine/test_attempts.py tests/stories/test_crash_points.py -k 'job or attempt'",
    ),
    Mutation(
        name="no look at attempts and crashes at rescue",
        path=_JOBS,
        after="-- name: rescue",
        old="job.crashes + 1 >= queue.max_crashes + case when crowd.jobs = 1 then 0 else 2 end\n      or (crowd",
        new="false and (crowd",
        tests="tests/stories/test_processes.py -k kills_its_process",
    ),
    Mutation(
        name="a clock that tests cannot shift: not the database's word",
        path=_JOBS,
        after="-- name: promote",
        old="where due_at <= chimpbase.clock()",
        new="where due_at <= now()",
        tests="tests/testing/test_clock.py",
    ),
    Mutation(
        name="publish outside of the transaction",
        path="_app/pubsub_client.py",
        after="async def _store(self",
        old="async with frame.statement() as connection:",
        new="async with self._backstage.db.acquire() as connection:",
        tests="tests/app/test_unit.py",
    ),
    Mutation(
        name="broadcast outside of the transaction",
        path="_app/pubsub_client.py",
        after="async def broadcast(self, event: Any",
        old="async with self._frame.statement() as connection:",
        new="async with self._backstage.db.acquire() as connection:",
        tests="tests/stories/test_broadcasts.py",
    ),
    Mutation(
        name="cron without its unique row",
        path="_store/schedules.sql",
        after="-- name: fire",
        old="before.due_at is null as fresh",
        new="true as fresh",
        tests="tests/stories/test_cron.py tests/stories/test_schedules.py",
    ),
    Mutation(
        name="no poll as a fallback",
        path="_engine/keepers.py",
        old="self._on_ready(seen.ready)",
        new="self._on_ready(())",
        tests="tests/stories/test_processes.py -k run_elsewhere",
    ),
    Mutation(
        name="a budget that bites nobody",
        path="_pg/watchdog.py",
        old="self._deadline = 0.0\n            self._bite()",
        new="self._deadline = 0.0",
        tests="tests/pg/test_half_open.py",
    ),
    Mutation(
        name="an unknown outcome told as a failure",
        path="_pg/session.py",
        old="if not doubtful:",
        new="if doubtful is not None:",
        tests="tests/pg/test_half_open.py tests/pg/test_db_hook.py",
    ),
    Mutation(
        name="the heart stops before the last job",
        path="_engine/engine.py",
        after="async def stop(self",
        old="await asyncio.gather(*(service.stop() for service in self._services))",
        new="if self._heart is not None:\n            await self._heart.stop()\n"
        "        await asyncio.gather(*(service.stop() for service in self._services))",
        tests="tests/stories/test_processes.py -k keeps_its_lease",
    ),
    Mutation(
        name="a lock that stays with the connection for its next user",
        path="_pg/lexer.py",
        old=" | pg_(?:try_)?advisory_lock )",
        new=" )",
        tests="tests/app/test_settings_of_handlers.py",
    ),
    Mutation(
        name="claims for a process that was declared dead",
        path=_JOBS,
        after="-- name: claim",
        old="and dead_at is null",
        new="and (dead_at is null or true)",
        tests="tests/store/test_fences.py tests/stories/test_processes.py -k 'dead or zombie or claim'",
    ),
    Mutation(
        name="a clean stop charges the attempt",
        path=_JOBS,
        after="-- name: give_back\n",
        old="uncharged = job.uncharged + 1",
        new="uncharged = job.uncharged",
        tests="tests/stories/test_processes.py -k charges_nothing",
    ),
    Mutation(
        name="a step's memo after its transaction",
        path="_app/wf_steps.py",
        after="transaction=step.transaction)",
        old="await unit.commit(lambda connection: write(connection, text))",
        new="await unit.commit()\n                opened = False",
        tests="tests/stories/test_crash_points.py -k run_killed",
    ),
    Mutation(
        name="a run that rests without looking whether it was woken",
        path=_RUNS,
        after="-- name: suspend",
        old="and (run.paused or not run.woken)",
        new="and true",
        tests="tests/stories/test_workflows.py -k signal",
    ),
    Mutation(
        name="a stream read past what was not committed yet",
        path="_schema/migrations/0008_create_streams.sql",
        old="and e.xid = any (array(select pg_snapshot_xip(read_entries.prev)))",
        new="and false",
        tests="tests/stories/test_stream_order.py",
    ),
    Mutation(
        name="a stream read up to the oldest transaction, by id alone",
        path="_schema/migrations/0008_create_streams.sql",
        after="and e.id > greatest(read_entries.floor, read_entries.last)",
        old="pg_visible_in_snapshot(e.xid, read_entries.cur)))",
        new="e.xid < pg_snapshot_xmin(read_entries.cur)))",
        tests="tests/stories/test_stream_order.py",
    ),
    Mutation(
        name="a consumer moves on without its fence",
        path="_store/consumers.sql",
        after="-- name: move",
        old="and process = :process\n  and fence = :fence",
        new="and (process = :process or true)\n  and (fence = :fence or true)",
        tests="tests/stories/test_consumers.py",
    ),
    Mutation(
        name="compare and set that does not compare",
        path="_store/kv.sql",
        after="-- name: swap",
        old="and version = :version",
        new="and (version = :version or true)",
        tests="tests/app/test_kv.py tests/app/test_kv_history.py",
    ),
    Mutation(
        name="a gate that does not count what runs",
        path="_schema/migrations/0003_create_gates.sql",
        old="(limits ->> 'concurrency')::int - running",
        new="(limits ->> 'concurrency')::int",
        tests="tests/engine/test_limits.py",
    ),
    Mutation(
        name="an idempotency key that is another one each time",
        path="_schema/migrations/0004_create_unique_jobs.sql",
        old="'once:' || (asked ->> 'idempotency_key')",
        new="'once:' || gen_random_uuid() || (asked ->> 'idempotency_key')",
        tests="tests/app/test_unique.py",
    ),
    Mutation(
        name="expired keys are returned",
        path="_store/kv.sql",
        after="-- name: get",
        old="expires_at > chimpbase.clock()",
        new="expires_at > '-infinity'",
        tests="tests/app/test_kv.py tests/testing/test_clock.py",
    ),
    Mutation(
        name="a failed savepoint keeps its writes",
        path=_FRAME,
        old="await connection.rollback_to(self.savepoint)\n            await connection.release",
        new="await connection.release",
        tests="tests/app/test_unit.py",
    ),
    Mutation(
        name="what follows a commit follows a rollback too",
        path=_FRAME,
        old="await inner.take_back()\n                raise",
        new="self.after_commit += inner.after_commit\n                await inner.take_back()\n                raise",
        tests="tests/app/test_unit.py",
    ),
    Mutation(
        name="the lease of a silent process never ends",
        path="_store/processes.sql",
        after="-- name: expire",
        old="< chimpbase.clock() - lease",
        new="< chimpbase.clock() - lease * 1000",
        tests="tests/stories/test_processes.py -k 'killed or zombie'",
    ),
    Mutation(
        name="one bad end holds up its batch",
        path="_engine/finisher.py",
        old="if len(ends) == 1:",
        new="if len(ends) >= 1:",
        tests="tests/engine/test_bad_ends.py",
    ),
    Mutation(
        name="a lost claim is never looked for",
        path="_engine/claims.py",
        old="self._looks = [now, now + self._doubt_s]",
        new="self._looks = []",
        tests="tests/engine/test_lost_answers.py -k claim",
    ),
    Mutation(
        name="jobs of a deleted process stay where they are",
        path="_engine/keepers.py",
        old="orphaned = await jobs.list_orphaned(connection)",
        new="orphaned = list[ProcessId]()",
        tests="tests/stories/test_processes.py -k row_was_deleted",
    ),
)


def mutated(mutation: Mutation, text: str) -> str | None:
    """The text with the bug in it; None when its place is not there any more."""
    start = text.find(mutation.after)
    place = text.find(mutation.old, max(start, 0))
    if start < 0 or place < 0:
        return None
    return text[:place] + mutation.new + text[place + len(mutation.old) :]


def read(mutation: Mutation, root: Path = ROOT) -> str:
    return (root / "src" / "chimpbase" / mutation.path).read_text(encoding="utf-8")


def run(mutation: Mutation) -> tuple[str, float]:
    """Plant the bug in a copy and run its tests: "red" is what it should be."""
    began = monotonic()
    text = mutated(mutation, read(mutation))
    if text is None:
        return "ROTTEN: its place is gone", 0.0
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as name:
        copy = Path(name) / "tree"
        copy.mkdir()
        for part in ("src", "tests", "examples", "docs"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / part, copy / part)
        (copy / "src" / "chimpbase" / mutation.path).write_text(text, encoding="utf-8")
        verdict = _verdict(mutation, copy)
    return verdict, monotonic() - began


def _verdict(mutation: Mutation, copy: Path) -> str:
    names, _, chosen = mutation.tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *names.split()]
    if chosen:
        command += ["-k", chosen.strip("'")]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "red (it hung)"
    match done.returncode:
        case 0:
            return "GREEN: nobody noticed"
        case 1:
            return "red"
        case code:
            return f"NO VERDICT: pytest ended with {code}: {(done.stdout + done.stderr)[-300:]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutations")
    parser.add_argument("--only", default="", help="those with this in their names; | between several")
    parser.add_argument("--lanes", type=int, default=2, help="so many side by side")
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md")
    options = parser.parse_args()
    wanted = options.only.split("|")
    chosen = [mutation for mutation in MUTATIONS if any(part in mutation.name for part in wanted)]
    lines = ["| planted bug | where | found by | verdict | time |", "|---|---|---|---|---|"]
    print("\n".join(lines))
    with ThreadPoolExecutor(options.lanes) as lanes:
        for mutation, (verdict, seconds) in zip(chosen, lanes.map(run, chosen), strict=True):
            tests = " ".join(f"`{word}`" for word in mutation.tests.partition(" -k ")[0].split())
            lines.append(f"| {mutation.name} | `{mutation.path}` | {tests} | {verdict} | {seconds:.0f} s |")
            print(lines[-1], flush=True)
    if options.write:
        write_between(ROOT / "docs" / "faults.md", "the mutations", "\n".join(lines))
    return 0 if all("| red" in line for line in lines[2:]) else 1


if __name__ == "__main__":
    sys.exit(main())
