-- Schedules and their occurrences, in chimpbase.schedule and chimpbase.occurrence.
-- Each statement is run by the function of the same name in schedules.py.

-- name: clock
-- The database's clock, by which every next occurrence is computed.
select chimpbase.clock();

-- name: register
-- Add the schedules that code declares; a changed expression or zone takes the given `next_at`, an unchanged one keeps
-- its own. A schedule that was made at run time under such a name belongs to the code from now on.
-- Locks:  changed rows, in the order of their names.
insert into chimpbase.schedule (name, expression, tz, misfire, max_missed, overlap, jitter, payload, queue, next_at)
select name, expression, tz, misfire, max_missed, overlap, jitter, payload, queue, next_at
from unnest(
  :names::text[], :expressions::text[], :zones::text[], :misfires::text[], :max_missed::int[], :overlaps::text[],
  :jitters::interval[], :payloads::text[], :queues::int[], :next_ats::timestamptz[]
) as spec (name, expression, tz, misfire, max_missed, overlap, jitter, payload, queue, next_at)
where not exists (
  select 1
  from chimpbase.schedule
  where schedule.name = spec.name
    and schedule.declared
    and (schedule.expression, schedule.tz, schedule.misfire, schedule.max_missed, schedule.overlap, schedule.jitter,
      schedule.payload, schedule.queue)
      is not distinct from (spec.expression, spec.tz, spec.misfire, spec.max_missed, spec.overlap, spec.jitter,
      spec.payload, spec.queue)
)
order by name
on conflict (name) do update
set expression = excluded.expression,
    tz = excluded.tz,
    misfire = excluded.misfire,
    max_missed = excluded.max_missed,
    overlap = excluded.overlap,
    jitter = excluded.jitter,
    payload = excluded.payload,
    queue = excluded.queue,
    declared = true,
    next_at = case
      when (schedule.expression, schedule.tz) = (excluded.expression, excluded.tz) then schedule.next_at
      else excluded.next_at
    end;

-- name: schedule
-- Make or change a schedule at run time; the id of its queue, null when there is no such queue, and whether it was stored,
-- false when code declares that name. As with `register`, only a changed cadence takes the given `next_at`.
-- Locks:  that schedule.
with target as (
  select id
  from chimpbase.queue
  where name = :queue
),
stored as (
  insert into chimpbase.schedule (
    name, expression, tz, misfire, max_missed, overlap, jitter, payload, queue, next_at, declared)
  select :name, :expression, :tz, :misfire, :max_missed::int, :overlap, :jitter::interval, :payload, target.id,
    :next_at::timestamptz, false
  from target
  on conflict (name) do update
  set expression = excluded.expression,
      tz = excluded.tz,
      misfire = excluded.misfire,
      max_missed = excluded.max_missed,
      overlap = excluded.overlap,
      jitter = excluded.jitter,
      payload = excluded.payload,
      queue = excluded.queue,
      next_at = case
        when (schedule.expression, schedule.tz) = (excluded.expression, excluded.tz) then schedule.next_at
        else excluded.next_at
      end
  where not schedule.declared
  returning name
)
select (select id from target) as queue, exists (select 1 from stored) as stored;

-- name: get
-- One schedule, with the name of its queue.
select schedule.name, schedule.expression, schedule.tz, schedule.misfire, schedule.max_missed, schedule.overlap,
  schedule.jitter, schedule.payload, queue.name as queue, schedule.declared, schedule.paused_at, schedule.next_at,
  schedule.last_at, chimpbase.clock() as now
from chimpbase.schedule
join chimpbase.queue on queue.id = schedule.queue
where schedule.name = :name;

-- name: list_all
-- Up to `max_rows` schedules whose names begin with `prefix` and come after `after`, by name.
select schedule.name, schedule.expression, schedule.tz, schedule.misfire, schedule.max_missed, schedule.overlap,
  schedule.jitter, schedule.payload, queue.name as queue, schedule.declared, schedule.paused_at, schedule.next_at,
  schedule.last_at, chimpbase.clock() as now
from chimpbase.schedule
join chimpbase.queue on queue.id = schedule.queue
where starts_with(schedule.name, :prefix)
  and schedule.name > :after
order by schedule.name
limit :max_rows;

-- name: pause
-- Fire a schedule no more until it is resumed; whether there is such a schedule. One that is paused stays so.
-- Locks:  that schedule.
update chimpbase.schedule
set paused_at = coalesce(paused_at, chimpbase.clock())
where name = :name
returning true;

-- name: resume
-- Let a paused schedule go on at `next_at`, which was computed for this expression and zone; whether it did.
-- Locks:  that schedule.
update chimpbase.schedule
set paused_at = null,
    next_at = :next_at
where name = :name
  and expression = :expression
  and tz = :tz
  and paused_at is not null
returning true;

-- name: remove
-- Forget a schedule; whether there was one. Its waiting occurrences are skipped, its jobs stay.
-- Locks:  that schedule.
-- Touches: chimpbase.occurrence, so that a schedule that is made anew under the name does not find them waiting.
with gone as (
  delete from chimpbase.schedule
  where name = :name
  returning name
),
dropped as (
  update chimpbase.occurrence
  set state = 'skipped'
  from gone
  where occurrence.schedule = gone.name
    and occurrence.state = 'waiting'
)
select true from gone;

-- name: run_now
-- Make a job of a schedule now, apart from its instants; its id and its queue. Paused or not.
-- Touches: chimpbase.occurrence and, through `enqueue_jobs`, the job's table: neither can exist without the other.
with fired as (
  select schedule.name, schedule.queue, queue.kind, nextval('chimpbase.job_id') as job, chimpbase.clock() as due_at,
    coalesce(:payload, schedule.payload) as payload
  from chimpbase.schedule
  join chimpbase.queue on queue.id = schedule.queue
  where schedule.name = :name
),
noted as (
  insert into chimpbase.occurrence (schedule, due_at, job)
  select name, due_at, job
  from fired
)
select job as id, queue, chimpbase.enqueue_jobs(
    array[queue], array[chimpbase.occurrence_job(kind, name, due_at, payload)], '{}', '{}', '{}', '{}', array[:headers], '{}',
    '{}', array[job]
  )
from fired;

-- name: list_due
-- Lock up to `max_schedules` due schedules of each of these queues, of those that nobody else is firing.
-- Locks:  those schedules (skip locked).
-- Index:  schedule_due (queue, next_at) where paused_at is null.
select due.name, due.expression, due.tz, due.misfire, due.max_missed, due.overlap, due.jitter, due.next_at, due.waiting,
  due.last_at, due.last_job, chimpbase.clock() as now
from unnest(:queues::int[]) as mine (id)
cross join lateral (
  select *
  from chimpbase.schedule
  where queue = mine.id
    and paused_at is null
    and next_at <= chimpbase.clock()
  order by next_at
  limit :max_schedules
  for update skip locked
) as due;

-- name: list_waiting
-- Lock schedules of these queues that have an occurrence waiting and, as far as this can see, no job of theirs unfinished.
-- Locks:  those schedules (skip locked).
-- Index:  schedule_waiting (queue) where waiting and paused_at is null; job_pkey, job_later_pkey, job_wait_pkey.
-- Touches: chimpbase.job, job_later and job_wait, to leave alone what has to go on waiting.
select free.name, free.last_job
from unnest(:queues::int[]) as mine (id)
cross join lateral (
  select *
  from chimpbase.schedule
  where queue = mine.id
    and waiting
    and paused_at is null
    and not exists (select 1 from chimpbase.job where job.id = schedule.last_job offset 0)
    and not exists (select 1 from chimpbase.job_later where job_later.id = schedule.last_job offset 0)
    and not exists (select 1 from chimpbase.job_wait where job_wait.id = schedule.last_job offset 0)
  limit :max_schedules
  for update skip locked
) as free;

-- name: list_unfinished
-- Which of these jobs have not ended. Asked once the schedules are locked, so that it sees what others fired before.
-- Index:  job_pkey, job_later_pkey, job_wait_pkey.
-- Touches: chimpbase.job, job_later and job_wait, since an unfinished job is in one of them.
select asked.id
from unnest(:jobs::bigint[]) as asked (id)
cross join lateral (
  -- kept apart, so that each job is looked up by its id
  select 1 from chimpbase.job where job.id = asked.id
  union all
  select 1 from chimpbase.job_later where job_later.id = asked.id
  union all
  select 1 from chimpbase.job_wait where job_wait.id = asked.id
  offset 0
) as unfinished;

-- name: cancel
-- Cancel these jobs: a waiting one at once, a running one as soon as its process hears of it.
-- Locks:  the jobs that wait, the requests for those that run.
-- Touches: chimpbase.job, job_later, job_done, job_cancel.
select ended.outcome
from unnest(:jobs::bigint[]) as asked (id)
cross join lateral chimpbase.cancel_job(asked.id, :reason) as ended;

-- name: release
-- Turn the oldest waiting occurrence of each of these locked schedules into a job; the queues that got one.
-- Locks:  those schedules and occurrences.
-- Index:  occurrence_waiting (schedule, due_at) where state = 'waiting'.
-- Touches: through `enqueue_jobs`, the jobs' tables: neither can exist without the other.
with oldest as (
  select schedule.name, schedule.queue, schedule.payload, queue.kind, first.due_at, first.more,
    case when first.due_at is not null then nextval('chimpbase.job_id') end as job
  from unnest(:names::text[]) as free (name)
  join chimpbase.schedule on schedule.name = free.name
  join chimpbase.queue on queue.id = schedule.queue
  left join lateral (
    select min(due_at) as due_at, count(*) > 1 as more
    from (
      select due_at
      from chimpbase.occurrence
      where occurrence.schedule = schedule.name
        and occurrence.state = 'waiting'
      order by due_at
      limit 2
    ) as next_two
  ) as first on true
),
noted as (
  update chimpbase.occurrence
  set state = 'fired',
      job = oldest.job,
      fired_at = chimpbase.clock()
  from oldest
  where (occurrence.schedule, occurrence.due_at) = (oldest.name, oldest.due_at)
),
kept as (
  update chimpbase.schedule
  set waiting = oldest.more,
      last_at = coalesce(oldest.due_at, schedule.last_at),
      last_job = coalesce(oldest.job, schedule.last_job)
  from oldest
  where schedule.name = oldest.name
)
select array_agg(distinct queue) as queues, chimpbase.enqueue_jobs(
    array_agg(queue), array_agg(chimpbase.occurrence_job(kind, name, due_at, payload)), '{}', '{}', '{}', '{}',
    array_agg(chimpbase.occurrence_headers(name)), '{}', '{}', array_agg(job)
  )
from oldest
where job is not null
having count(*) > 0;

-- name: fire
-- Settle locked schedules: each (schedule, instant) becomes a job once for ever, or waits, or is skipped, and a schedule
-- moves on to its `next_at`, which one of its rows carries. The queues that got a job, and seconds to the first later one.
-- Locks:  those schedules.
-- Index:  schedule_pkey, occurrence_pkey.
-- Touches: chimpbase.occurrence and, through `enqueue_jobs`, the jobs' tables: neither can exist without the other.
with planned as (
  select plan.*, schedule.queue, schedule.payload, queue.kind,
    plan.due_at is not null and before.due_at is null as fresh
  from unnest(
    :schedules::text[], :due_ats::timestamptz[], :states::text[], :delays::interval[], :next_ats::timestamptz[],
    :waits::boolean[]
  ) as plan (schedule, due_at, state, delay, next_at, waits)
  join chimpbase.schedule on schedule.name = plan.schedule
  join chimpbase.queue on queue.id = schedule.queue
  left join lateral (
    -- kept apart, so that each is looked up by its key: the planner would hash all that were ever fired
    select occurrence.due_at
    from chimpbase.occurrence
    where occurrence.schedule = plan.schedule
      and occurrence.due_at = plan.due_at
    offset 0
  ) as before on true
),
owed as (
  select planned.*, case when fresh and state = 'fired' then nextval('chimpbase.job_id') end as job
  from planned
),
noted as (
  insert into chimpbase.occurrence (schedule, due_at, state, job)
  select schedule, due_at, state, job
  from owed
  where fresh
),
advanced as (
  update chimpbase.schedule
  set next_at = owed.next_at,
      waiting = schedule.waiting or owed.waits,
      last_at = case when owed.job is null then schedule.last_at else owed.due_at end,
      last_job = coalesce(owed.job, schedule.last_job)
  from owed
  where owed.next_at is not null
    and schedule.name = owed.schedule
)
select array_agg(distinct queue) as queues,
  extract(epoch from min(delay) filter (where delay > interval '0'))::float8 as later_s,
  chimpbase.enqueue_jobs(
    array_agg(queue order by job), array_agg(chimpbase.occurrence_job(kind, schedule, due_at, payload) order by job),
    array_agg(delay order by job), '{}', '{}', '{}', array_agg(chimpbase.occurrence_headers(schedule) order by job), '{}',
    '{}', array_agg(job order by job)
  )
from owed
where job is not null
having count(*) > 0;

-- name: prune
-- Forget up to `max_rows` occurrences older than `age` that wait for nothing; how many.
with old as (
  select schedule, due_at
  from chimpbase.occurrence
  where fired_at < chimpbase.clock() - :age::interval
    and state <> 'waiting'
  order by fired_at
  limit :max_rows
)
delete from chimpbase.occurrence
using old
where (occurrence.schedule, occurrence.due_at) = (old.schedule, old.due_at);
