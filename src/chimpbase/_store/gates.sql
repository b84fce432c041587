-- Gates: what a queue with limits lets through, in chimpbase.gate, job_wait, key_news and job_key.
-- Each statement is run by the function of the same name in gates.py.

-- name: declare
-- Note what code says of the limits of these queues. A queue gets its gate with its first limits and keeps it.
-- Locks:  the gates whose declaration changes, in the order of their queues.
with spec as (
  select queue.id, spec.limits::jsonb as limits
  from unnest(:names::text[], :limits::text[]) as spec (name, limits)
  join chimpbase.queue on queue.name = spec.name
)
insert into chimpbase.gate (queue, declared)
select spec.id, spec.limits
from spec
left join chimpbase.gate on gate.queue = spec.id
where gate.declared is distinct from spec.limits
  and (gate.queue is not null or spec.limits <> '{}')
order by spec.id
on conflict (queue) do update
set declared = excluded.declared,
    settled = false;

-- name: override
-- Note what an operator says of a queue's limits, before what code says; the queue's id, no row when there is none.
-- A field of null lifts that limit; without fields code's word stands again. Registration leaves it alone.
-- Locks:  that gate.
insert into chimpbase.gate (queue, override)
select id, :limits::text::jsonb
from chimpbase.queue
where name = :name
on conflict (queue) do update
set override = excluded.override,
    settled = false
returning queue;

-- name: list_all
-- What is declared, overridden and in effect for each queue with a gate.
select queue.name, gate.declared::text, gate.override::text, chimpbase.limits_of(gate)::text as effective
from chimpbase.gate
join chimpbase.queue on queue.id = gate.queue
order by queue.name;

-- name: admit
-- Let up to `demand` jobs of a queue through its gate, leased to a process; always a row, the first of which also says
-- whether to come again at once (`more`) or when (`opens_s`).
-- Locks:  the gate, so that admissions of a queue take turns; the process (key share); those jobs (skip locked).
-- Index:  job_ready, job_wait_line, job_wait_key, job_key_open.
select admitted.more, admitted.opens_s, job.id, job.queue, job.priority, job.sort, job.attempt, job.uncharged,
  job.crashes > 0 and job.crashes + 1 >= queue.max_crashes as suspect, job.max_attempts, job.enqueued_at, job.payload,
  job.headers, job.key, job.terms,
  job.terms is not null and coalesce((job.terms::jsonb ->> 'not_after')::timestamptz < chimpbase.clock(), false)
    as expired
from chimpbase.admit(:queue, :process, :demand, :suspects) as admitted
left join lateral unnest(admitted.jobs) as job on true
left join chimpbase.queue on queue.id = job.queue;

-- name: look_at
-- Why a job waits behind its gate: what limits hold, who stands before it, who holds the slots, when buckets refill.
-- No row when the job does not wait there. For people, not for loops.
-- Touches: chimpbase.job, job_later and queue, to be one answer.
with waiting as (
  select job_wait.id, job_wait.queue, job_wait.key, job_wait.priority, gate as gate, chimpbase.limits_of(gate) as limits
  from chimpbase.job_wait
  join chimpbase.gate on gate.queue = job_wait.queue
  where job_wait.id = :job
)
select waiting.queue, nullif(waiting.key, '') as key, waiting.limits::text, queue.paused_at,
  (
    select count(*)
    from chimpbase.job_wait as other
    where other.queue = waiting.queue
      and (other.key = waiting.key or not waiting.limits ?| array['fair', 'ordered', 'key_concurrency', 'key_rate'])
      and (other.priority, other.id) < (waiting.priority, waiting.id)
  ) as ahead,
  array(
    select job.id from chimpbase.job where job.queue = waiting.queue and job.process is not null order by job.sort
  ) as running,
  array(
    select job.id
    from chimpbase.job
    where job.queue = waiting.queue and job.process is not null and job.key = waiting.key
    order by job.sort
  ) as running_of_key,
  array(
    select job_later.id
    from chimpbase.job_later
    where job_later.queue = waiting.queue
      and job_later.key = waiting.key
      and (job_later.attempt > job_later.uncharged or job_later.errors is not null)
      and waiting.limits ->> 'ordered' = 'strict'
    order by job_later.due_at
  ) as retrying_of_key,
  chimpbase.gate_opens_at(waiting.gate) as opens_at,
  (
    select job_key.open_at from chimpbase.job_key where job_key.queue = waiting.queue and job_key.key = waiting.key
  ) as key_opens_at,
  chimpbase.clock() as now
from waiting
join chimpbase.queue on queue.id = waiting.queue;

-- name: prune
-- Forget keys that have nothing waiting and a bucket that is full again by now; how many.
-- Locks:  those rows (skip locked).
with idle as (
  select job_key.ctid as place
  from chimpbase.job_key
  join chimpbase.gate on gate.queue = job_key.queue
  cross join lateral (select chimpbase.limits_of(gate) -> 'key_rate' as rate) as limits
  where job_key.open_at is null
    and not job_key.is_full
    and (job_key.tokens is null
      or job_key.refilled_at < chimpbase.clock() - make_interval(
        secs => (rate ->> 'burst')::float8 * (rate ->> 'per')::float8 / (rate ->> 'limit')::float8)
      or rate is null)
  limit :max_rows
  for update of job_key skip locked
),
gone as (
  delete from chimpbase.job_key
  using idle
  where job_key.ctid = idle.place
    and job_key.open_at is null
  returning 1
)
select count(*) from gone;
