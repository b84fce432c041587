-- Queues: one row a queue, in chimpbase.queue. Rows are never deleted by a process that merely does not know them.
-- Each statement is run by the function of the same name in queues.py.

-- name: register
-- Add the queues that are new and bring the limits of the others up to date; a null limit changes nothing.
-- Locks:  changed rows, in the order of their names.
insert into chimpbase.queue (name, kind, max_attempts, retention)
select name, kind, coalesce(max_attempts, 20), retention
from unnest(:names::text[], :kinds::text[], :max_attempts::int[], :retentions::interval[])
  as spec (name, kind, max_attempts, retention)
where not exists (
  select 1
  from chimpbase.queue
  where queue.name = spec.name
    and (spec.max_attempts is null
      or (queue.max_attempts = spec.max_attempts and queue.retention is not distinct from spec.retention))
)
order by name
on conflict (name) do update
set max_attempts = excluded.max_attempts,
    retention = excluded.retention;

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

-- name: link_dead
-- Tell every queue of jobs of the one named after it with `.dead` behind it. A queue of dead letters has none itself.
-- Locks:  changed rows.
update chimpbase.queue
set dead_queue = dead.id
from chimpbase.queue as dead
where dead.name = queue.name || '.dead'
  and dead.kind = 'job'
  and queue.kind = 'job'
  and queue.name not like '%.dead'
  and queue.dead_queue is distinct from dead.id;

-- name: list_ids
-- The numbers of all queues by name.
select name, id from chimpbase.queue;

-- name: list_names
-- The names of all queues.
select name from chimpbase.queue order by name;

-- name: list_all
-- Every queue: id, name, kind.
select id, name, kind from chimpbase.queue order by name;
