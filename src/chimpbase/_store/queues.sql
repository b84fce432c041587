-- Queues: one row a queue, in chimpbase.queue. Rows are never deleted by a process that merely does not know them.
-- Each statement is run by the function of the same name in queues.py.

-- name: register
-- Add the queues that are new and bring the limits of the others up to date; a null limit changes nothing.
-- Locks:  changed rows, in the order of their names.
insert into chimpbase.queue (name, kind, max_attempts)
select name, kind, coalesce(max_attempts, 20)
from unnest(:names::text[], :kinds::text[], :max_attempts::int[]) as spec (name, kind, max_attempts)
where not exists (
  select 1
  from chimpbase.queue
  where queue.name = spec.name
    and queue.max_attempts = coalesce(spec.max_attempts, queue.max_attempts)
)
order by name
on conflict (name) do update
set max_attempts = excluded.max_attempts;

-- name: find
-- The id of a queue of jobs by its name.
-- Index:  queue_name_key.
select id
from chimpbase.queue
where name = :name
  and kind = 'job';

-- name: pause
-- Let nobody claim from a queue; its id. One that is paused already keeps who paused it first, and why.
-- Locks:  that row.
update chimpbase.queue
set paused_at = coalesce(paused_at, chimpbase.clock()),
    paused_by = case when paused_at is null then :by else paused_by end,
    pause_reason = case when paused_at is null then :reason else pause_reason end
where name = :name
returning id;

-- name: resume
-- Let a queue be claimed from again; its id.
-- Locks:  that row.
update chimpbase.queue
set paused_at = null,
    paused_by = null,
    pause_reason = null
where name = :name
returning id;

-- name: list_names
-- The names of all queues.
select name from chimpbase.queue order by name;

-- name: list_all
-- Every queue: id, name, kind.
select id, name, kind from chimpbase.queue order by name;
