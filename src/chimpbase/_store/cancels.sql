-- Cancellations: requests in chimpbase.job_cancel, and the end of the jobs they are for.
-- Each statement is run by the function of the same name in cancels.py.

-- name: cancel
-- Cancel a waiting job, or ask for the end of a running one: what came of it, and the job's queue.
-- Locks:  the job when it waits, its request when it runs.
-- Touches: chimpbase.job, job_later, job_done.
select outcome, queue from chimpbase.cancel_job(:job, :reason);

-- name: list_asked
-- The attempts of one process that somebody wants ended.
-- Touches: chimpbase.job, since a request may outlive its attempt.
select asked.job, asked.attempt, asked.reason
from chimpbase.job_cancel as asked
join chimpbase.job
  on job.id = asked.job
  and job.process = asked.process
  and job.attempt = asked.attempt
where asked.process = :process;

-- name: settle
-- Carry up to `most` requests over from attempts that have ended to their jobs; what came of each.
-- Locks:  those requests (skip locked), and what `cancel` locks.
select job, outcome from chimpbase.settle_cancels(:most);

-- name: finish
-- End jobs that this process still holds as cancelled, and the requests for it; the ids of those ended.
-- Locks:  those jobs.
-- Touches: chimpbase.job, job_done.
-- Index:  job_pkey.
with held as (
  select job.ctid as place, ended.reason
  from unnest(:ids::bigint[], :attempts::int[], :reasons::text[]) as ended (id, attempt, reason)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = ended.id
      and process = :process
      and attempt = ended.attempt
    offset 0
  ) as job
),
gone as (
  delete from chimpbase.job
  using held
  where job.ctid = held.place
  returning job.*, held.reason
),
answered as (
  delete from chimpbase.job_cancel
  using gone
  where job_cancel.job = gone.id
),
kept as (
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, headers, errors)
  select gone.id, chimpbase.clock(), gone.enqueued_at, gone.claimed_at, gone.process, gone.queue,
    gone.attempt - gone.uncharged, gone.key, gone.crashes, 'cancelled', gone.payload, gone.headers,
    chimpbase.with_error(gone.errors, chimpbase.cancel_record(gone.attempt - gone.uncharged, gone.reason))
  from gone
  join chimpbase.queue on queue.id = gone.queue and queue.retention is not null
),
resolved as (
  select chimpbase.resolve(array(select id from gone), array(select 'cancelled'::text from gone))
  where exists (select 1 from chimpbase.job_after)
)
select id, (select count(*) from resolved) from gone;
