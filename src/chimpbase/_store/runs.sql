-- Workflow runs, their memo journal and their signals, in chimpbase.run, step and signal.
-- Each statement is run by the function of the same name in runs.py.
-- A run's lease is its activation's: every write here checks that the job is still held by (process, attempt).

-- name: register
-- Make workflows known, each in its version; none is ever removed here.
insert into chimpbase.workflow (name, version, queue)
select name, version, queue
from unnest(:names::text[], :versions::int[], :queues::int[]) as spec (name, version, queue)
order by name, version
on conflict do nothing;

-- name: start
-- Create a run and its first activation; or why that cannot be.
select queue, run_version, refused from chimpbase.start_run(:workflow, :version, :id, :input, :delay::interval, :headers);

-- name: signal
-- Store a signal; the queue of the activation it woke, if any; or why that cannot be.
select queue, refused, state from chimpbase.send_signal(:id, :name, :payload);

-- name: load_journal
-- Begin an activation: the run, marked running, with its whole journal. No row when the lease is lost or it has ended.
-- Index:  run_pkey, step_pkey.
with held as (
  select job.id
  from chimpbase.job
  where job.id = :job
    and job.process = :process
    and job.attempt = :attempt
),
awake as (
  update chimpbase.run
  set state = 'running',
      waits = null,
      wake_at = null
  from held
  where run.number = :run
    and run.job = held.id
    and run.state in ('sleeping', 'waiting')
  returning run.number
)
select run.number, run.id, run.workflow, run.version, run.input, run.started_at, run.headers, chimpbase.clock() as now,
  (select count(*) from awake) as awoken,
  coalesce(
    (select array_agg(step order by step.seq) from chimpbase.step where step.run = run.number), '{}'
  ) as steps
from chimpbase.run
join held on held.id = run.job
where run.number = :run
  and run.finished_at is null;

-- name: memo
-- Write steps once; the (run, key) of those written. One that is missing was written before, or its lease is lost.
-- Index:  job_pkey, step_pkey.
insert into chimpbase.step (run, key, seq, kind, attempt, started_at, result, error)
select memo.run, memo.key, memo.seq, memo.kind, memo.attempt, memo.started_at, memo.result, memo.error
from unnest(
  :processes::bigint[], :jobs::bigint[], :fences::int[], :runs::bigint[], :keys::text[], :seqs::int[], :kinds::text[], :attempts::int[],
  :started_ats::timestamptz[], :results::text[], :errors::text[]
) as memo (process, job, fence, run, key, seq, kind, attempt, started_at, result, error)
cross join lateral (
  -- kept apart, so that each job is looked up by its id whatever the planner believes of `process`
  select id
  from chimpbase.job
  where id = memo.job
    and process = memo.process
    and attempt = memo.fence
  offset 0
) as held
order by memo.run, memo.key
on conflict do nothing
returning run, key;

-- name: consume
-- Take the oldest signal of that name and write the wait's step with it, as one: `payload`, and no row if there is none.
-- Raises a unique violation when the wait was already decided, so that the signal is not lost with it.
-- Locks:  the activation: nobody takes it over before this commits, and misses what was consumed. The signal.
-- Index:  signal_run (run, name, id), job_pkey.
with held as (
  select id
  from chimpbase.job
  where id = :job
    and process = :process
    and attempt = :attempt
  for no key update
),
taken as (
  delete from chimpbase.signal
  using held
  where signal.id = (
    select oldest.id
    from chimpbase.signal as oldest
    where oldest.run = :run
      and oldest.name = :name
    order by oldest.id
    limit 1
  )
  returning signal.payload
)
insert into chimpbase.step (run, key, seq, kind, started_at, result)
select :run, :key, :seq, 'wait', :started_at, payload
from taken
returning result;

-- name: suspend
-- Put a run to rest until `due_at` or a signal in `waits`, with the timers it set; `suspended`, else whether it was
-- `woken` meanwhile. Neither: the lease is lost. The lock on the run orders this against a signal on its way.
-- Locks:  the run, its activation.
-- Touches: chimpbase.job and job_later, so that a run at rest always has its one activation.
with run as (
  select number, woken
  from chimpbase.run
  where number = :run
    and job = :job
  for update
),
gone as (
  delete from chimpbase.job
  using run
  where job.id = :job
    and job.process = :process
    and job.attempt = :attempt
    and not run.woken
  returning job.*
),
later as (
  insert into chimpbase.job_later (
    id, due_at, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers)
  select id, coalesce(:due_at::timestamptz, 'infinity'), enqueued_at, queue, attempt, attempt, max_attempts, priority,
    key, terms, 0, payload, headers
  from gone
),
timers as (
  insert into chimpbase.step (run, key, seq, kind, started_at, result)
  select :run, timer.key, timer.seq, 'sleep', chimpbase.clock(), timer.result
  from gone
  cross join unnest(:keys::text[], :seqs::int[], :results::text[]) as timer (key, seq, result)
  on conflict do nothing
),
rested as (
  update chimpbase.run
  set state = case when run.woken then 'running' else :state end,
      waits = case when run.woken then null else :waits::text[] end,
      wake_at = case when run.woken then null else :due_at::timestamptz end,
      woken = false
  from run as seen
  where run.number = seen.number
    and (seen.woken or exists (select 1 from gone))
  returning seen.woken
)
select exists (select 1 from gone) as suspended, coalesce((select woken from rested), false) as woken;

-- name: finish
-- End a run and its activation as one; the run's number, or no row when the lease is lost.
-- Locks:  the activation, the run.
-- Touches: chimpbase.job and job_done.
with gone as (
  delete from chimpbase.job
  where id = :job
    and process = :process
    and attempt = :attempt
  returning job.*
),
kept as (
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, headers, errors)
  select gone.id, chimpbase.clock(), gone.enqueued_at, gone.claimed_at, gone.process, gone.queue, gone.attempt,
    gone.key, gone.crashes, 'completed', gone.payload, gone.headers, gone.errors
  from gone
  join chimpbase.queue on queue.id = gone.queue and queue.retention is not null
)
update chimpbase.run
set state = :state,
    output = :output,
    error = :error,
    finished_at = chimpbase.clock()
from gone
where run.number = :run
returning run.number;

-- name: get
-- What a run is doing.
-- Index:  run_id_key.
select id, workflow, version, state, coalesce(waits, '{}') as waits, wake_at, started_at, finished_at, input, output, error
from chimpbase.run
where id = :id;

-- name: list_recent
-- The newest runs, of one workflow or all, in one state or any.
select id, workflow, version, state, coalesce(waits, '{}') as waits, wake_at, started_at, finished_at, input, output, error
from chimpbase.run
where (:workflow::text is null or workflow = :workflow)
  and (:state::text is null or state = :state)
order by number desc
limit :max_runs;
