-- What people look at: queues with what is in them, and jobs by where they are.
-- Each statement is run by the function of the same name in inspect.py.

-- name: list_queues
-- Every queue: its kind, pause and limits, its live processes, and how many jobs it has in each place. Reads the tables of
-- unfinished jobs whole: for people, not for loops.
-- Touches: every table of jobs, queue, gate and process.
with ready as (
  select queue, count(*) filter (where process is null) as ready, count(process) as running,
    min(enqueued_at) filter (where process is null) as oldest_at
  from chimpbase.job group by queue
),
gated as (
  select queue, count(*) as ready, min(enqueued_at) as oldest_at from chimpbase.job_wait group by queue
),
later as (
  select queue, count(*) as later from chimpbase.job_later group by queue
),
dead as (
  select queue, count(*) as dead from chimpbase.job_dead group by queue
)
select queue.name, queue.kind, queue.paused_at, queue.paused_by, queue.pause_reason,
  coalesce((select chimpbase.limits_of(gate)::text from chimpbase.gate where gate.queue = queue.id), '{}') as limits,
  (
    select count(*) from chimpbase.process
    where queue.id = any (process.queues)
      and process.dead_at is null
      and process.beat_at > chimpbase.clock() - process.lease
  ) as processes,
  coalesce(ready.ready, 0) + coalesce(gated.ready, 0) as ready, coalesce(ready.running, 0) as running,
  coalesce(later.later, 0) as later, coalesce(dead.dead, 0) as dead,
  extract(epoch from chimpbase.clock() - least(ready.oldest_at, gated.oldest_at))::float8 as oldest_s
from chimpbase.queue
left join ready on ready.queue = queue.id
left join gated on gated.queue = queue.id
left join later on later.queue = queue.id
left join dead on dead.queue = queue.id
order by queue.name;

-- name: list_jobs
-- Up to `most` jobs, newest first, of one queue or of all, in one state or in all but done.
with found as (
  select id, queue, case when process is null then 'ready' else 'running' end as state, attempt - uncharged as attempts,
    priority, enqueued_at, claimed_at as at, payload
  from chimpbase.job
  where (:state::text is null or :state = case when process is null then 'ready' else 'running' end)
  union all
  select id, queue, 'ready', attempt - uncharged, priority, enqueued_at, null, payload
  from chimpbase.job_wait
  where :state is null or :state = 'ready'
  union all
  select id, queue, 'later', attempt - uncharged, priority, enqueued_at, nullif(due_at, 'infinity'), payload
  from chimpbase.job_later
  where :state is null or :state = 'later'
  union all
  select id, queue, 'dead', attempt - uncharged, priority, enqueued_at, died_at, payload
  from chimpbase.job_dead
  where :state is null or :state = 'dead'
  union all
  select id, queue, outcome, attempt, 0, enqueued_at, finished_at, payload
  from chimpbase.job_done
  where :state = 'done'
)
select found.id, queue.name as queue, found.state, found.attempts, found.priority, found.enqueued_at, found.at,
  left(found.payload, 200) as payload
from found
join chimpbase.queue on queue.id = found.queue
where :queue::int is null or found.queue = :queue
order by found.id desc
limit :most;
