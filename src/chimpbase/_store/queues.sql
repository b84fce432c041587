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

-- name: list_fingerprints
-- Of these queues: name, id, and the fingerprint of the payload type that was last declared, null when none was.
select name, id, fingerprint from chimpbase.queue where name = any (:names::text[]) and kind = 'job' order by name;

-- name: set_fingerprint
-- Note the fingerprint of the payload type that is declared now.
-- Locks:  that row.
update chimpbase.queue set fingerprint = :fingerprint where id = :queue;

-- name: sample_waiting
-- Up to `most` jobs from each end of the line, and as many of those that wait elsewhere: id, payload, headers.
-- Touches: chimpbase.job, job_later and job_wait.
-- Index:  job_ready, job_wait_line.
(
  select id, payload, headers
  from chimpbase.job
  where queue = :queue and process is null
  order by priority, sort
  limit :most
)
union
(
  select id, payload, headers
  from chimpbase.job
  where queue = :queue and process is null
  order by priority desc, sort desc
  limit :most
)
union
(select id, payload, headers from chimpbase.job_wait where queue = :queue order by priority, id limit :most)
union
(select id, payload, headers from chimpbase.job_later where queue = :queue limit :most);
