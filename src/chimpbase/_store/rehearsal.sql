-- What a rehearsal asks: what would run next, what falls due next, and what a test wants to look at.
-- Each statement is run by the function of the same name in rehearsal.py. Rehearsed databases are small: these may scan.

-- name: find_head
-- The queue, of those given, whose next job became ready first; lower priority numbers go before.
-- Touches: chimpbase.job, job_wait and queue, for a paused queue has no next job.
select next.queue
from (
  select queue, priority, sort from chimpbase.job where process is null
  union all
  select queue, priority, id from chimpbase.job_wait
) as next
join chimpbase.queue on queue.id = next.queue and queue.paused_at is null
where next.queue = any (:queues::int[])
order by next.priority, next.sort
limit 1;

-- name: find_due
-- The first instant after `since` at which a delayed job or, if `schedules`, a schedule falls due, or a gate opens.
-- Touches: chimpbase.job_later, job_wait, gate, job_key and schedule, to be one answer.
select least(
  (select min(due_at) from chimpbase.job_later where due_at > :since and due_at < 'infinity'),
  (select min(next_at) from chimpbase.schedule where paused_at is null and next_at > :since and :schedules::boolean),
  (
    select min(opens.at)
    from chimpbase.gate
    cross join lateral (
      select chimpbase.gate_opens_at(gate) as at
      union all
      select open_at from chimpbase.job_key where job_key.queue = gate.queue
    ) as opens
    where opens.at > :since
      and exists (select 1 from chimpbase.job_wait where job_wait.queue = gate.queue)
  )
);

-- name: list_waiting
-- The payloads of a queue's jobs that nobody runs: the ready ones in their order, then the later ones by due time.
-- Touches: chimpbase.job, job_wait, job_later and queue, to be one answer.
select waiting.payload
from chimpbase.queue
join (
  select queue, payload, '-infinity'::timestamptz as due_at, priority, sort
  from chimpbase.job
  where process is null
  union all
  select queue, payload, '-infinity', priority, id
  from chimpbase.job_wait
  union all
  select queue, payload, due_at, priority, id
  from chimpbase.job_later
) as waiting on waiting.queue = queue.id
where queue.name = :queue
order by waiting.due_at, waiting.priority, waiting.sort;

-- name: list_events
-- The payloads of a topic's events, oldest first.
select payload from chimpbase.event where topic = :topic order by id;
