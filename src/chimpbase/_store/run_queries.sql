-- What anybody may ask of workflow runs. Each statement is run by the function of the same name in run_queries.py.

-- name: get
-- What a run is doing, and how many live processes can run it.
-- Index:  run_id_key.
select run.id, run.workflow, run.version, run.state, coalesce(run.waits, '{}') as waits, run.wake_at, run.started_at,
  run.finished_at, run.input, run.output, run.error, run.view, run.attributes::text as attributes,
  (select above.id from chimpbase.run as above where above.number = run.parent) as parent, run.round, run.cancel_reason,
  (select count(*) from chimpbase.process where dead_at is null and run.queue = any (process.queues)) as capable
from chimpbase.run
where run.id = :id;

-- name: list_ends
-- How these runs stand, for those who wait for their ends; no row for one that does not exist.
-- Index:  run_id_key.
select id, workflow, version, state, output, error
from unnest(:ids::text[]) as awaited (id)
cross join lateral (
  select workflow, version, state, output, error
  from chimpbase.run
  where run.id = awaited.id
  offset 0
) as run;

-- name: list_recent
-- The newest runs: of one workflow or all, in one of some states or any, with these attributes, started in a time.
select run.id, run.workflow, run.version, run.state, coalesce(run.waits, '{}') as waits, run.wake_at, run.started_at,
  run.finished_at, run.input, run.output, run.error, run.view, run.attributes::text as attributes,
  (select above.id from chimpbase.run as above where above.number = run.parent) as parent, run.round, run.cancel_reason,
  (select count(*) from chimpbase.process where dead_at is null and run.queue = any (process.queues)) as capable
from chimpbase.run
where (:workflow::text is null or run.workflow = :workflow)
  and (:states::text[] is null or run.state = any (:states::text[]))
  and (:attributes::text is null or run.attributes @> :attributes::text::jsonb)
  and (:since::timestamptz is null or run.started_at >= :since)
  and (:until::timestamptz is null or run.started_at < :until)
order by run.number desc
limit :max_runs;

-- name: load_past
-- A run with its whole journal, whatever its state. Changes nothing.
-- Index:  run_id_key, step_pkey.
select run.number, run.id, run.workflow, run.version, run.input, run.started_at, run.headers, chimpbase.clock() as now,
  coalesce(run.seed, run.id) as seed, run.round, run.parent, run.code, run.cancel_reason,
  run.paused_at is not null as paused, run.state, run.output, run.error,
  array(
    select step
    from chimpbase.step
    where step.run = run.number
    order by step.seq, step.key
  ) as steps
from chimpbase.run
where run.id = :id;

-- name: list_in_flight
-- The ids of runs that have not ended, after number `after`, oldest first, of one workflow or all.
-- Index:  run_pkey.
select number, id
from chimpbase.run
where finished_at is null
  and number > :after
  and (:workflow::text is null or workflow = :workflow)
order by number
limit :max_runs;

-- name: find_reply
-- What became of an update, if it is known.
select result, error from chimpbase.reply where id = :id;
