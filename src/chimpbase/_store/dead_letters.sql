-- Dead letters: jobs that nobody runs again by himself, in chimpbase.job_dead.
-- Each statement is run by the function of the same name in dead_letters.py.

-- name: list_dead
-- Up to `most` dead letters that a filter names, newest first, after the one that died at `before_at` as `before_id`.
-- Index:  job_dead_died, or job_dead_queue when the filter names a queue.
select dead.id, queue.name as queue, dead.payload, dead.reason, dead.errors, dead.attempt - dead.uncharged as attempts,
  dead.died_at, dead.enqueued_at
from chimpbase.find_dead(:filter::text::jsonb, :before_at::timestamptz, :before_id::bigint, false, :most) as dead
join chimpbase.queue on queue.id = dead.queue
order by dead.died_at desc, dead.id desc;

-- name: count_dead
-- How many a filter names; the count stops at `most`.
select count(*) from chimpbase.find_dead(:filter::text::jsonb, null, null, false, :most);

-- name: redrive
-- Give up to `most` dead letters that a filter names new attempts, oldest first: the n-th falls due n * `gap` from `start`.
-- The ids, and the queues.
-- A deadline that has passed is dropped: who redrives wants the job to run. Attempts that were counted stay counted, as uncharged ones, so that no old attempt can take itself for a new one.
-- Locks:  those jobs.
-- Touches: chimpbase.job_later.
with chosen as (
  select found.id, row_number() over (order by found.died_at, found.id) - 1 as place
  from chimpbase.find_dead(:filter::text::jsonb, null, null, true, :most) as found
),
gone as (
  delete from chimpbase.job_dead
  using chosen
  where job_dead.id = chosen.id
  returning job_dead.*, chosen.place
)
insert into chimpbase.job_later (
  id, due_at, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers,
  errors)
select id, :start::timestamptz + place * :gap::interval, enqueued_at, queue, attempt, attempt, max_attempts, priority,
  key, nullif((terms::jsonb - 'not_after')::text, '{}'), 0, payload, headers, errors
from gone
returning id, queue;

-- name: purge
-- Delete up to `most` dead letters that a filter names, oldest first; how many.
-- Locks:  those jobs.
with chosen as (
  select found.id
  from chimpbase.find_dead(:filter::text::jsonb, null, null, true, :most) as found
),
gone as (
  delete from chimpbase.job_dead
  using chosen
  where job_dead.id = chosen.id
  returning job_dead.id
)
select count(*) from gone;

-- name: prune
-- Delete up to `most` dead letters that died longer than `age` ago; how many. Those of runs go with their runs.
-- Index:  job_dead_died.
with chosen as (
  select dead.id
  from chimpbase.job_dead as dead
  join chimpbase.queue on queue.id = dead.queue and queue.kind <> 'activation'
  where dead.died_at < chimpbase.clock() - :age::interval
  order by dead.died_at
  limit :most
),
gone as (
  delete from chimpbase.job_dead
  using chosen
  where job_dead.id = chosen.id
  returning job_dead.id
)
select count(*) from gone;

-- name: hurry
-- Let a job that waits for its time, and will not wait for ever, fall due now; its queue.
-- Locks:  that job.
update chimpbase.job_later
set due_at = chimpbase.clock()
from chimpbase.queue
where job_later.id = :job
  and job_later.due_at < 'infinity'
  and queue.id = job_later.queue
  and queue.kind <> 'activation'
returning job_later.queue;

-- name: clock
-- The database's clock.
select chimpbase.clock();
