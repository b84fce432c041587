-- Run births: runs that are started together, outside of any other transaction, and by the process that can run them.
-- Each statement is run by the function of the same name in run_births.py.

-- name: start
-- Start runs, each with its first activation. Those of them that `leased` says are born leased to the process, with their
-- first attempt counted, unless their queue is paused or has a gate, or the process was declared dead; the others are
-- ready like any other. One row for each that was started: its place in the arrays, its number and activation, whether
-- that is leased, and when. No row for one whose workflow is unknown, or whose id another run has, here or before. They
-- come as one JSON text, as steps do (runs.sql).
-- Touches: chimpbase.run, job, queue and gate.
-- Locks:  the process row (key share), so that nobody declares it dead in between; ids in order, so that two who start
--         the same ones wait for each other one way round.
-- Index:  run_id_key, workflow_pkey.
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
home as materialized (
  select me.id as process, array(
    select queue.id
    from unnest(me.ungated) as wanted (id)
    cross join lateral (
      select id
      from chimpbase.queue
      where id = wanted.id
        and paused_at is null
        and not struck
      offset 0
    ) as queue
  ) as queues
  from me
),
new as materialized (
  select nextval('chimpbase.run_number_seq') as number, nextval('chimpbase.job_id') as job, kind.queue, given.*
  from rows from (
    json_to_recordset(:runs::text::json) as (
      workflow text, version int, id text, input text, headers text, priority smallint, key text, attributes text,
      leased boolean)
  ) with ordinality as given (workflow, version, id, input, headers, priority, key, attributes, leased, n)
  cross join lateral (
    select queue
    from chimpbase.workflow
    where name = given.workflow
      and version = given.version
    offset 0
  ) as kind
),
places as materialized (
  -- drawn in the order of `n`, so that a number's place is found by halving and not by a join
  select array_agg(number order by n) as numbers, array_agg(n::int order by n) as ns,
    array_agg(leased order by n) as leased, array_agg(priority order by n) as priorities, array_agg(key order by n) as keys
  from new
),
stored as (
  insert into chimpbase.run (number, id, workflow, version, queue, job, input, headers, attributes)
  overriding system value
  select number, id, workflow, version, queue, job, input, headers, attributes::jsonb
  from new
  order by id, n
  on conflict on constraint run_id_key do nothing
  returning number, queue, job, headers, started_at
),
placed as materialized (
  select stored.*, place.n, places.priorities[place.n] as priority, places.keys[place.n] as key, home.process
  from stored
  cross join places
  cross join lateral (select places.ns[width_bucket(stored.number, places.numbers)] as n offset 0) as place
  left join home on stored.queue = any (home.queues) and places.leased[place.n]
),
ready as (
  insert into chimpbase.job (id, sort, queue, payload, headers, priority, key, process, attempt, claimed_at)
  select job, job, queue, number::text, headers, priority, key, process,
    case when process is null then 0 else 1 end, case when process is not null then chimpbase.clock() end
  from placed
)
select n, number, job, process is not null as born, started_at
from placed
order by n;
