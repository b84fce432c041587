-- Workflow runs as their activations see them: chimpbase.run, step and signal.
-- Each statement is run by the function of the same name in runs.py.
-- A run's lease is its activation's: every write here checks that the job is still held by (process, attempt).

-- name: register
-- Make workflows known, each in its version; none is ever removed here.
insert into chimpbase.workflow (name, version, queue)
select name, version, queue
from unnest(:names::text[], :versions::int[], :queues::int[]) as spec (name, version, queue)
order by name, version
on conflict do nothing;

-- name: load_journals
-- Begin activations: each run, marked running, with its whole journal. No row where the lease is lost or the run has
-- ended.
-- Index:  job_pkey, run_pkey, step_pkey.
with held as materialized (
  select wanted.run, wanted.job
  from unnest(:processes::bigint[], :jobs::bigint[], :attempts::int[], :runs::bigint[])
    as wanted (process, job, attempt, run)
  cross join lateral (
    select id
    from chimpbase.job
    where id = wanted.job
      and process = wanted.process
      and attempt = wanted.attempt
    offset 0
  ) as job
),
awake as (
  update chimpbase.run
  set state = 'running',
      waits = null,
      wake_at = null
  from held
  where run.number = held.run
    and run.job = held.job
    and run.state in ('sleeping', 'waiting', 'paused')
  returning run.number
)
select run.number, run.id, run.workflow, run.version, run.input, run.started_at, chimpbase.clock() as now, run.headers,
  coalesce(run.seed, run.id) as seed, run.round, run.parent, run.code, run.cancel_reason,
  run.paused_at is not null as paused,
  coalesce((select array_agg(step order by step.seq) from chimpbase.step where step.run = held.run), '{}') as steps
from held
cross join lateral (
  select *
  from chimpbase.run
  where number = held.run
    and job = held.job
    and finished_at is null
  offset 0
) as run;

-- name: memo
-- Write steps once; the (run, key) of those written. One that is missing was written before, or its lease is lost. The
-- note of a failed attempt gives way. The steps come as one JSON text: of fourteen arrays the driver asks each element
-- whether it is an array itself, which was four times the work of all this in the client.
-- Index:  job_pkey, step_pkey.
insert into chimpbase.step as known (
  run, key, seq, kind, attempt, digest, started_at, finished_at, detail, result, error)
select memo.run, memo.key, memo.seq, memo.kind, memo.attempt, memo.digest, memo.started_at, memo.finished_at, memo.detail,
  memo.result, memo.error
from json_to_recordset(:memos::text::json) as memo (
  process bigint, job bigint, fence int, run bigint, key text, seq int, kind text, attempt int, digest bigint,
  started_at timestamptz, finished_at timestamptz, detail text, result text, error text)
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
on conflict (run, key) do update
set kind = excluded.kind, attempt = excluded.attempt, finished_at = excluded.finished_at, detail = excluded.detail,
  result = excluded.result, error = excluded.error
where known.kind = 'retry'
returning run, key;

-- name: consume
-- Take the oldest message of those names and write the wait's step with it, as one: its name and payload, and no row if
-- there is none. Raises a unique violation when the wait was already decided, so that the message is not lost with it.
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
    select min(oldest.id)
    from unnest(:names::text[]) as wanted (name)
    cross join lateral (
      select id
      from chimpbase.signal
      where run = :run
        and name = wanted.name
      order by id
      limit 1
    ) as oldest
  )
  returning signal.name, signal.payload
)
insert into chimpbase.step (run, key, seq, kind, started_at, finished_at, detail, result)
select :run, :key, :seq, :kind, :started_at, :finished_at, coalesce(:detail::text, name), payload
from taken
returning (select name from taken) as name, result as payload;

-- name: suspend
-- Put a run to rest until `due_at` or a message in `waits`, with the timers it set; `suspended`, else whether it was
-- `woken` meanwhile. Neither: the lease is lost. The lock on the run orders this against a message on its way. A paused
-- run rests until it is resumed; `pause` is the reason for which the code itself pauses.
-- Locks:  the run, its activation.
-- Touches: chimpbase.job and job_later, so that a run at rest always has its one activation.
with run as (
  select number, cancel_reason, woken or (cancel_reason is not null and not :heard::boolean) as woken,
    paused_at is not null or :pause::text is not null as paused
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
    and (run.paused or not run.woken)
  returning job.*, run.paused
),
later as (
  insert into chimpbase.job_later (
    id, due_at, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers)
  select id, case when paused then 'infinity' else coalesce(:due_at::timestamptz, 'infinity') end, enqueued_at, queue,
    attempt, attempt, max_attempts, priority, key, terms, 0, payload, headers
  from gone
),
timers as (
  insert into chimpbase.step (run, key, seq, kind, started_at, finished_at, result)
  select :run, timer.key, timer.seq, 'sleep', :started_at, :started_at, timer.result
  from gone
  cross join unnest(:keys::text[], :seqs::int[], :results::text[]) as timer (key, seq, result)
  on conflict do nothing
),
rested as (
  update chimpbase.run
  set state = case when seen.paused then 'paused' when seen.woken then 'running' else :state end,
      waits = case when seen.woken and not seen.paused then null else :waits::text[] end,
      wake_at = case when seen.woken and not seen.paused then null else :due_at::timestamptz end,
      paused_at = case when seen.paused then coalesce(run.paused_at, chimpbase.clock()) end,
      error = :pause,
      view = coalesce(:view, run.view),
      code = :code,
      woken = seen.woken and seen.paused
  from run as seen
  where run.number = seen.number
    and (seen.woken or exists (select 1 from gone))
  returning seen.woken and not seen.paused as woken, seen.cancel_reason
)
select exists (select 1 from gone) as suspended, coalesce((select woken from rested), false) as woken,
  (select cancel_reason from rested) as cancel_reason;

-- name: finish
-- End runs and their activations as one; the numbers of those ended. For runs without parent and children. They come as
-- one JSON text, as steps do.
-- Locks:  the activations, the runs.
-- Touches: chimpbase.job and job_done.
-- Index:  job_pkey, run_pkey.
with held as (
  select job.ctid as place, done.run, done.state, done.output, done.error, done.view, done.code
  from json_to_recordset(:endings::text::json) as done (
    process bigint, job bigint, attempt int, run bigint, state text, output text, error text, view text, code text)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = done.job
      and process = done.process
      and attempt = done.attempt
    offset 0
  ) as job
),
gone as (
  delete from chimpbase.job
  using held
  where job.ctid = held.place
  returning job.*, held.run, held.state, held.output, held.error as failure, held.view, held.code
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
set state = gone.state,
    output = gone.output,
    error = gone.failure,
    view = coalesce(gone.view, run.view),
    code = gone.code,
    finished_at = chimpbase.clock()
from gone
where run.number = gone.run
  and run.job = gone.id
returning run.number;

-- name: finish_family
-- As `finish`, for one run that has a parent or children: the parent is told, and children that are to end with it are
-- cancelled. Whether it was held, and the queues to wake.
-- Locks:  the parent, the run, its children.
select held, queues from chimpbase.end_run(:run, :job, :process, :attempt, :state, :output, :error, :view, :code);

-- name: continue_as
-- Begin a run anew with another input: an empty journal, one round more, the same activation, ready again.
-- The run's number, or no row when the lease is lost.
-- Locks:  the activation, the run.
-- Touches: chimpbase.job.
with again as (
  update chimpbase.job
  set process = null,
      claimed_at = null,
      uncharged = attempt,
      crashes = 0,
      sort = nextval('chimpbase.job_id')
  where id = :job
    and process = :process
    and attempt = :attempt
  returning id
),
forgotten as (
  delete from chimpbase.step
  using again
  where step.run = :run
)
update chimpbase.run
set input = :input,
    round = round + 1,
    view = coalesce(:view, view),
    code = null
from again
where run.number = :run
returning run.number;

-- name: migrate
-- Move a run to another version, with what that makes of its input and journal; its number, or no row when the lease is
-- lost. Keys that are null are dropped.
-- Locks:  the activation, the run.
-- Touches: chimpbase.job, whose queue is the version's.
with held as (
  update chimpbase.job
  set queue = moved.queue
  from chimpbase.workflow as moved
  where job.id = :job
    and job.process = :process
    and job.attempt = :attempt
    and moved.name = :workflow
    and moved.version = :version
  returning job.id, job.queue
),
dropped as (
  delete from chimpbase.step
  using held
  where step.run = :run
    and step.key = any (:dropped::text[])
),
renamed as (
  update chimpbase.step
  set key = change.key
  from held
  cross join unnest(:old_keys::text[], :new_keys::text[]) as change (old, key)
  where step.run = :run
    and step.key = change.old
)
update chimpbase.run
set version = :version,
    queue = held.queue,
    input = :input,
    code = null
from held
where run.number = :run
returning run.number;

-- name: list_disturbed
-- Of these active runs, those that somebody wants cancelled or paused.
-- Index:  run_pkey.
select number, cancel_reason, paused_at is not null as paused
from unnest(:runs::bigint[]) as active (id)
cross join lateral (
  select number, cancel_reason, paused_at
  from chimpbase.run
  where number = active.id
    and (cancel_reason is not null or paused_at is not null)
  offset 0
) as run;

-- name: add_callback
-- Make a callback's token known.
insert into chimpbase.callback (token, run, key) values (:token, :run, :key) on conflict do nothing;

-- name: add_reply
-- Answer an update, once.
insert into chimpbase.reply (id, run, result, error) values (:id, :run, :result, :error) on conflict do nothing;

-- name: prune
-- Of the `window` runs after number `after`, delete those that ended longer than `age` ago, with all that is theirs; the
-- last number looked at, or none when there is nothing as old as that.
-- Index:  run_pkey.
with old as (
  select number, finished_at
  from chimpbase.run
  where number > :after
    and started_at < chimpbase.clock() - :age::interval
  order by number
  limit :window
),
gone as (
  delete from chimpbase.run
  using old
  where run.number = old.number
    and old.finished_at < chimpbase.clock() - :age::interval
  returning run.number
),
steps as (
  delete from chimpbase.step using gone where step.run = gone.number
),
signals as (
  delete from chimpbase.signal using gone where signal.run = gone.number
),
keys as (
  delete from chimpbase.signal_key using gone where signal_key.run = gone.number
),
callbacks as (
  delete from chimpbase.callback using gone where callback.run = gone.number
),
replies as (
  delete from chimpbase.reply using gone where reply.run = gone.number
)
select max(number) from old;
