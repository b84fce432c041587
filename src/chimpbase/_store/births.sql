-- Births: jobs that are stored by the process which runs them, as leased from the start. Rows of chimpbase.job.
-- Each statement is run by the function of the same name in births.py.

-- name: enqueue
-- Store ready jobs that this process is to run at once: leased to it from the start, with their first attempt counted.
-- Where the queue is paused or has a gate, or the process was declared dead, they become ready jobs like any other.
-- One row for each, in order: id, whether it is leased, and when it was enqueued.
-- Touches: chimpbase.queue and gate, which may keep them from running.
-- Locks:  the process row (key share), so that nobody declares it dead in between.
with held as materialized (
  select id
  from chimpbase.process
  where id = :process
    and dead_at is null
  for key share
),
me as materialized (
  -- asked once the process is locked: see chimpbase.ungated
  select id, chimpbase.ungated(:queues::int[], id) as ungated
  from held
),
new as materialized (
  select nextval('chimpbase.job_id') as id, given.*
  from unnest(
    :queues::int[], :payloads::text[], :priorities::smallint[], :max_attempts::int[], :headers::text[], :keys::text[],
    :terms::text[]
  ) with ordinality as given (queue, payload, priority, max_attempts, headers, key, terms, n)
),
stored as (
  insert into chimpbase.job (
    id, sort, queue, payload, priority, max_attempts, headers, key, terms, process, attempt, claimed_at)
  select new.id, new.id, new.queue, new.payload, new.priority, new.max_attempts, new.headers, new.key, new.terms,
    holder.id, case when holder.id is null then 0 else 1 end, case when holder.id is not null then chimpbase.clock() end
  from new
  join chimpbase.queue on queue.id = new.queue
  left join me as holder on queue.paused_at is null and not queue.struck and new.queue = any (holder.ungated)
  returning id, process is not null as born, enqueued_at
)
select stored.id, stored.born, stored.enqueued_at
from stored
join new on new.id = stored.id
order by new.n;
