-- What became of a job, wherever it is; and its progress, in chimpbase.job_progress.
-- Each statement is run by the function of the same name in following.py.

-- name: get
-- A job by its id, in whichever table it is; one statement, so that one on its way between two of them is in one.
-- Touches: chimpbase.job, job_later, job_wait, job_dead, job_done and queue, to be one answer.
-- Index:  the primary keys, job_done_id.
select found.state, queue.name as queue, found.key, found.priority, found.attempts, found.enqueued_at, found.due_at,
  found.started_at, found.finished_at, found.payload, found.result, found.reason, found.errors::text as errors,
  progress.fraction, progress.note, progress.at
from (
  select case when process is null then 'waiting' else 'running' end as state, queue, key, priority,
    attempt - uncharged as attempts, enqueued_at, null::timestamptz as due_at, claimed_at as started_at,
    null::timestamptz as finished_at, payload, null::text as result, null::text as reason, errors
  from chimpbase.job
  where id = :id
  union all
  select 'waiting', queue, key, priority, attempt - uncharged, enqueued_at, nullif(due_at, 'infinity'), null, null,
    payload, null, null, errors
  from chimpbase.job_later
  where id = :id
  union all
  select 'waiting', queue, nullif(key, ''), priority, attempt - uncharged, enqueued_at, null, null, null, payload, null,
    null, errors
  from chimpbase.job_wait
  where id = :id
  union all
  select 'dead', queue, key, priority, attempt - uncharged, enqueued_at, null, null, died_at, payload, null, reason,
    errors
  from chimpbase.job_dead
  where id = :id
  union all
  select outcome, queue, key, null, attempt, enqueued_at, null, claimed_at, finished_at, payload, result, null, errors
  from chimpbase.job_done
  where id = :id
) as found
join chimpbase.queue on queue.id = found.queue
left join chimpbase.job_progress as progress on progress.job = :id
limit 1;

-- name: report
-- Write how far jobs are; what an earlier attempt says last changes nothing.
-- Index:  job_progress_pkey (job).
insert into chimpbase.job_progress (job, attempt, fraction, note, at)
select job, attempt, fraction, note, chimpbase.clock()
from unnest(:jobs::bigint[], :attempts::int[], :fractions::float8[], :notes::text[]) as new (job, attempt, fraction, note)
order by job
on conflict (job) do update
set attempt = excluded.attempt,
    fraction = excluded.fraction,
    note = excluded.note,
    at = excluded.at
where job_progress.attempt <= excluded.attempt;

-- name: sweep
-- Delete up to `max_rows` reports of jobs that ended more than an hour ago, or are gone; how many.
-- Locks:  those reports (skip locked).
-- Touches: chimpbase.job and its sisters, through chimpbase.job_state.
with old as (
  select job
  from chimpbase.job_progress
  where at < chimpbase.clock() - interval '1 hour'
    and coalesce(chimpbase.job_state(job), 'gone') not in ('waiting', 'running')
  limit :max_rows
  for update skip locked
),
gone as (
  delete from chimpbase.job_progress
  using old
  where job_progress.job = old.job
)
select count(*) from old;
