-- Schedules and their occurrences, in chimpbase.schedule and chimpbase.occurrence.
-- Each statement is run by the function of the same name in schedules.py.

-- name: clock
-- The database's clock, by which every next occurrence is computed.
select chimpbase.clock();

-- name: register
-- Add new schedules; a changed expression or zone takes the given `next_at`, an unchanged one keeps its own.
-- Locks:  changed rows, in the order of their names.
insert into chimpbase.schedule (name, expression, tz, misfire, queue, next_at)
select name, expression, tz, misfire, queue, next_at
from unnest(
  :names::text[], :expressions::text[], :zones::text[], :misfires::text[], :queues::int[], :next_ats::timestamptz[]
) as spec (name, expression, tz, misfire, queue, next_at)
where not exists (
  select 1
  from chimpbase.schedule
  where schedule.name = spec.name
    and schedule.expression = spec.expression
    and schedule.tz = spec.tz
    and schedule.misfire = spec.misfire
)
order by name
on conflict (name) do update
set expression = excluded.expression,
    tz = excluded.tz,
    misfire = excluded.misfire,
    next_at = case
      when (schedule.expression, schedule.tz) = (excluded.expression, excluded.tz) then schedule.next_at
      else excluded.next_at
    end;

-- name: list_due
-- Lock up to `max_schedules` schedules that are due and that nobody else is firing.
-- Locks:  those schedules (skip locked).
-- Index:  schedule_next (next_at) where paused_at is null.
select name, expression, tz, misfire, queue, next_at, chimpbase.clock() as now
from chimpbase.schedule
where paused_at is null
  and next_at <= chimpbase.clock()
order by next_at
limit :max_schedules
for update skip locked;

-- name: fire
-- Turn occurrences into jobs, each (schedule, instant) once for ever; the queues that got a job.
-- Touches: chimpbase.occurrence and chimpbase.job, so that neither can exist without the other.
with owed as (
  select schedule, due_at, queue, headers, nextval('chimpbase.job_id') as job
  from unnest(:schedules::text[], :due_ats::timestamptz[], :queues::int[], :headers::text[])
    as due (schedule, due_at, queue, headers)
),
fresh as (
  insert into chimpbase.occurrence (schedule, due_at, job)
  select schedule, due_at, job
  from owed
  order by schedule, due_at
  on conflict do nothing
  returning schedule, due_at, job
)
insert into chimpbase.job (id, sort, queue, payload, headers)
select fresh.job, fresh.job, owed.queue,
  json_build_object('schedule', fresh.schedule, 'due_at', fresh.due_at)::text, owed.headers
from fresh
join owed on owed.job = fresh.job
returning queue;

-- name: advance
-- Set the next instant of schedules locked by `list_due`.
-- Locks:  those schedules.
update chimpbase.schedule
set next_at = new.next_at
from unnest(:names::text[], :next_ats::timestamptz[]) as new (name, next_at)
where schedule.name = new.name;

-- name: prune
-- Forget up to `max_rows` occurrences older than `age`; how many.
with old as (
  select schedule, due_at
  from chimpbase.occurrence
  where fired_at < chimpbase.clock() - :age::interval
  order by fired_at
  limit :max_rows
)
delete from chimpbase.occurrence
using old
where (occurrence.schedule, occurrence.due_at) = (old.schedule, old.due_at);
