"""Invariants: what must hold after every statement, whoever sent it. Each is a query for the rows that break it."""

from __future__ import annotations

from typing import Final

BROKEN: Final[dict[str, str]] = {
    "a job is in one place": """
        select id from (
          select id from chimpbase.job union all select id from chimpbase.job_later
          union all select id from chimpbase.job_wait union all select id from chimpbase.job_dead
          union all select id from chimpbase.job_done) everywhere
        group by id having count(*) > 1
    """,
    "a running job has a process": """
        select job.id from chimpbase.job
        where process is not null and not exists (select from chimpbase.process where process.id = job.process)
    """,
    "a running job was claimed": """
        select id from chimpbase.job
        where (process is null) <> (claimed_at is null) or (process is not null and attempt = 0)
    """,
    "no more attempts were free than made": """
        select id from chimpbase.job where uncharged > attempt
        union all select id from chimpbase.job_later where uncharged > attempt
    """,
    "a live run has one activation": """
        select run.id from chimpbase.run
        where finished_at is null and state <> 'blocked' and 1 <> (
          select count(*) from (
            select id from chimpbase.job union all select id from chimpbase.job_later) active
          where active.id = run.job)
    """,
    "a run that waits for a signal alone has its activation at rest": """
        select run.id from chimpbase.run
        where state = 'waiting' and wake_at is null
          and not exists (select from chimpbase.job_later later where later.id = run.job)
    """,
    "a run that has ended has no activation": """
        select run.id from chimpbase.run
        where finished_at is not null and exists (
          select from chimpbase.job where job.id = run.job union all
          select from chimpbase.job_later later where later.id = run.job)
    """,
    "a finished run has a result or an error": """
        select id from chimpbase.run
        where (state = 'completed' and output is null) or (state = 'failed' and error is null)
          or (state in ('completed', 'failed') and finished_at is null)
    """,
    "an occurrence has made one job": """
        select job::text from chimpbase.occurrence group by job having count(*) > 1
    """,
}


def one_query(names: tuple[str, ...] | None = None) -> str:
    """All of them as one statement: a row (name, what) for each break."""
    return " union all ".join(
        f"select '{name}' as rule, broken::text as what from ({sql}) broken"
        for name, sql in BROKEN.items()
        if names is None or name in names
    )
