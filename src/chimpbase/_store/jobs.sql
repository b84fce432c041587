-- Jobs: one row a unit of work, in chimpbase.job, job_later, job_dead and job_done.
-- Each statement is run by the function of the same name in jobs.py.
--
-- The ends of attempts look each job up by its id first (lateral, kept apart by `offset 0`) and then change it where it
-- was found. Joined flatly, the planner may believe that hardly any job has this process, as is true when statistics are
-- taken at rest, and read the whole queue for each batch. A job that changed in between is no longer where it was found.
-- The clock is asked in a subquery where there are many rows: once for a statement, not for each of them.

-- name: enqueue
-- Store jobs; one id each, in order.
select chimpbase.enqueue_jobs(
  :queues::int[], :payloads::text[], :delays::interval[], :dues::timestamptz[], :priorities::smallint[],
  :max_attempts::int[], :headers::text[], :keys::text[], :terms::text[]
);

-- name: enqueue_many
-- Store jobs that differ in their payloads alone; one id each, in order.
select chimpbase.enqueue_jobs(
  :queues::int[], :payloads::text[], :delays::interval[], :dues::timestamptz[], :priorities::smallint[],
  :max_attempts::int[], :headers::text[], :keys::text[], :terms::text[]
);

-- name: enqueue_with
-- Store a job for each payload unless it is there; the ids of the jobs, old or new, in order, or why that was refused.
select ids, refused, existing
from chimpbase.enqueue_with(
  :queue::int, :payloads::text[], :delay::interval, :due::timestamptz, :priority::smallint, :max_attempts::int,
  :headers::text, :key::text, :terms::text, :asked::text::jsonb
);

-- name: claim
-- Lease up to `demands[i]` ready jobs of `queues[i]` to a process, lowest priority number first, then oldest; only those
-- after the hint (priorities[i], sorts[i]), which spares the scan what this process knows to be taken or dead.
-- A suspect (one crash away from the dead letters) is taken only if `:suspects`, and one at most: what crashed together
-- must not crash together again, or the innocent die with the one that kills its process.
-- What a strike holds is passed by; where there is none, the payload is not looked at.
-- A queue with a gate gives nothing here, whatever it has: `admit` serves it.
-- Locks:  those jobs (skip locked); the process row (key share), so that nobody declares it dead in between.
-- Index:  job_ready (queue, priority, sort).
with me as (
  select id
  from chimpbase.process
  where id = :process
    and dead_at is null
  for key share
),
free as (
  -- asked once the process is locked, and not as of this statement's snapshot: see chimpbase.ungated
  select chimpbase.ungated(:queues::int[], me.id) as queues
  from me
),
ready as (
  select taken.id, taken.suspect
  from free
  cross join unnest(:queues::int[], :demands::int[], :priorities::smallint[], :sorts::bigint[])
    as want (queue, demand, priority, sort)
  join chimpbase.queue on queue.id = want.queue and queue.paused_at is null and queue.id = any (free.queues)
  cross join lateral (
    select job.id, job.crashes > 0 and job.crashes + 1 >= queue.max_crashes as suspect
    from chimpbase.job
    where job.queue = want.queue
      and (job.priority, job.sort) > (want.priority, want.sort)
      and job.process is null
      and (:suspects or job.crashes = 0 or job.crashes + 1 < queue.max_crashes)
      and (not queue.struck or not chimpbase.is_struck(job.queue, job.payload))
    order by job.priority, job.sort
    limit want.demand
    for no key update skip locked
  ) as taken
)
update chimpbase.job
set process = :process,
    attempt = job.attempt + 1,
    claimed_at = (select chimpbase.clock())
from ready
where job.id = ready.id
  and (not ready.suspect or ready.id = (select min(id) from ready where suspect))
returning job.id, job.queue, job.priority, job.sort, job.attempt, job.uncharged, ready.suspect, job.max_attempts,
  job.enqueued_at, job.payload, job.headers, job.key, job.terms,
  job.terms is not null and coalesce((job.terms::jsonb ->> 'not_after')::timestamptz < chimpbase.clock(), false)
    as expired;

-- name: finish
-- Remove jobs that this process still holds, keeping history where the queue wants it; the ids of those removed.
-- Locks:  those jobs.
-- Index:  job_pkey.
with held as (
  select job.ctid as place, done.result
  from unnest(:ids::bigint[], :attempts::int[], :results::text[]) as done (id, attempt, result)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = done.id
      and process = :process
      and attempt = done.attempt
    offset 0
  ) as job
),
gone as (
  delete from chimpbase.job
  using held
  where job.ctid = held.place
  returning job.*, held.result
),
kept as (
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, result, headers,
    errors)
  select gone.id, (select chimpbase.clock()), gone.enqueued_at, gone.claimed_at, gone.process, gone.queue,
    gone.attempt - gone.uncharged, gone.key, gone.crashes, 'completed', gone.payload, gone.result, gone.headers,
    gone.errors
  from gone
  join chimpbase.queue on queue.id = gone.queue and queue.retention is not null
),
-- asked for below, or it would not be done
resolved as (
  select chimpbase.resolve(array(select id from gone), array(select 'completed'::text from gone))
  where exists (select 1 from chimpbase.job_after)
)
select coalesce(array_agg(id), '{}') from gone where (select count(*) from resolved) >= 0;

-- name: finish_alike
-- As `finish`, for jobs that are all in the same attempt and leave no result, as nearly all do: half the work.
-- Locks:  those jobs.
-- Index:  job_pkey.
with gone as (
  delete from chimpbase.job
  where id = any (:ids::bigint[])
    and process = :process
    and attempt = :attempt
  returning id, enqueued_at, claimed_at, process, queue, attempt, uncharged, key, crashes, payload, headers, errors
),
kept as (
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, headers, errors)
  select id, (select chimpbase.clock()), enqueued_at, claimed_at, process, queue, attempt - uncharged, key, crashes,
    'completed', payload, headers, errors
  from gone
  where queue = any (array(
    select id
    from chimpbase.queue
    where id in (select distinct queue from gone)
      and retention is not null
  ))
),
resolved as (
  select chimpbase.resolve(array(select id from gone), array(select 'completed'::text from gone))
  where exists (select 1 from chimpbase.job_after)
)
select coalesce(array_agg(id), '{}') from gone where (select count(*) from resolved) >= 0;

-- name: settle
-- The end of one job that went well, for the message that also holds the COMMIT of its handler's transaction.
-- Raises CB030 when this process does not hold it in that attempt.
-- Locks:  that job.
select chimpbase.settle_job(:job, :process, :attempt);

-- name: put_off
-- Move jobs that this process still holds to a later time: a retry (charged, with its error) or a snooze (uncharged).
-- Returns the ids moved. The last ten errors are kept.
-- Locks:  those jobs.
-- Index:  job_pkey.
with held as (
  select job.ctid as place, later.delay, later.charged, later.error
  from unnest(:ids::bigint[], :attempts::int[], :delays::interval[], :charged::boolean[], :errors::text[])
    as later (id, attempt, delay, charged, error)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = later.id
      and process = :process
      and attempt = later.attempt
    offset 0
  ) as job
),
gone as (
  delete from chimpbase.job
  using held
  where job.ctid = held.place
  returning job.*, held.delay, held.charged, held.error
)
insert into chimpbase.job_later (
  id, due_at, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers,
  errors)
select id, chimpbase.clock() + delay, enqueued_at, queue, attempt,
  uncharged + case when charged then 0 else 1 end,
  max_attempts, priority, key, terms, crashes, payload, headers,
  case
    when error is null then errors
    else (case when jsonb_array_length(errors) >= 10 then errors - 0 else coalesce(errors, '[]') end) || error::jsonb
  end
from gone
returning id;

-- name: dead_letter
-- Move jobs that this process still holds to the dead letters; the ids moved. A dead activation blocks its run.
-- Locks:  those jobs.
-- Touches: chimpbase.run, so that no run is left where nobody will look.
-- Index:  job_pkey.
with held as (
  select job.ctid as place, dead.reason, dead.error
  from unnest(:ids::bigint[], :attempts::int[], :reasons::text[], :errors::text[]) as dead (id, attempt, reason, error)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = dead.id
      and process = :process
      and attempt = dead.attempt
    offset 0
  ) as job
),
gone as (
  delete from chimpbase.job
  using held
  where job.ctid = held.place
  returning job.*, held.reason, held.error
),
blocked as (
  update chimpbase.run
  set state = 'blocked',
      error = gone.error::jsonb ->> 'message'
  from gone, chimpbase.queue
  where queue.id = gone.queue
    and queue.kind = 'activation'
    and run.job = gone.id
    and run.number = case when queue.kind = 'activation' then gone.payload::bigint end
    and run.finished_at is null
),
buried as (
  insert into chimpbase.job_dead (
    id, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, reason, payload, headers,
    errors)
  select id, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, reason, payload,
    headers,
    (case when jsonb_array_length(errors) >= 10 then errors - 0 else coalesce(errors, '[]') end) || error::jsonb
  from gone
  returning id
),
resolved as (
  select chimpbase.resolve(array(select id from gone), array(select 'dead'::text from gone))
  where exists (select 1 from chimpbase.job_after)
)
select id, (select count(*) from resolved) from buried;

-- name: give_back
-- Make jobs that this process still holds ready again without charging the attempt; the ids given back.
-- Locks:  those jobs.
-- Index:  job_pkey.
with held as (
  select job.ctid as place
  from unnest(:ids::bigint[], :attempts::int[]) as back (id, attempt)
  cross join lateral (
    select ctid
    from chimpbase.job
    where id = back.id
      and process = :process
      and attempt = back.attempt
    offset 0
  ) as job
)
update chimpbase.job
set process = null,
    claimed_at = null,
    uncharged = job.uncharged + 1
from held
where job.ctid = held.place
returning job.id;

-- name: give_back_strays
-- Make ready again, uncharged, what this process holds but does not run: it never heard that its claim was committed.
-- Reads the whole table, for there is no index by process; this is rare.
-- Locks:  those jobs.
update chimpbase.job
set process = null,
    claimed_at = null,
    uncharged = job.uncharged + 1
where process = :process
  and not exists (
    select 1
    from unnest(:ids::bigint[], :attempts::int[]) as mine (id, attempt)
    where mine.id = job.id
      and mine.attempt = job.attempt
  )
returning job.id;

-- name: promote
-- Make up to `max_jobs` jobs that have fallen due ready; how many, in which queues, and seconds until the next falls due.
-- Locks:  those jobs (skip locked).
-- Index:  job_later_due (due_at).
with due as (
  select id
  from chimpbase.job_later
  where due_at <= chimpbase.clock()
  order by due_at
  limit :max_jobs
  for update skip locked
),
gone as (
  delete from chimpbase.job_later
  using due
  where job_later.id = due.id
  returning job_later.*
),
ready as (
  insert into chimpbase.job (
    id, sort, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers,
    errors)
  select id, nextval('chimpbase.job_id'), enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms,
    crashes, payload, headers, errors
  from gone
  returning queue
)
select count(*) as promoted, array_agg(distinct queue) as queues,
  (
    select extract(epoch from due_at - chimpbase.clock())::float8
    from chimpbase.job_later
    where due_at > chimpbase.clock()
      and due_at < 'infinity'
    order by due_at
    limit 1
  ) as next_s
from ready;

-- name: rescue
-- Take every job away from dead processes: ready again while it has attempts and crashes left, else a dead letter.
-- One that was alone on its process is to blame when it reaches a limit. One among others may be innocent, and may not
-- even have begun: it gets two crashes more, and is not buried for want of attempts, unless it may be tried only once.
-- A job locked by its dead owner's open transaction is skipped: `held_jobs` tells when none is left.
-- Locks:  those jobs (skip locked).
-- Touches: chimpbase.run: a dead activation blocks its run.
with lost as (
  select id, process
  from chimpbase.job
  where process = any (:processes::bigint[])
  for update skip locked
),
crowd as (
  select process, count(*) as jobs
  from lost
  group by process
),
judged as (
  select job.id,
    job.attempt - job.uncharged >= coalesce(job.max_attempts, queue.max_attempts) as spent,
    job.crashes + 1 >= queue.max_crashes + case when crowd.jobs = 1 then 0 else 2 end
      or (crowd.jobs = 1 or coalesce(job.max_attempts, queue.max_attempts) = 1)
        and job.attempt - job.uncharged >= coalesce(job.max_attempts, queue.max_attempts) as over
  from lost
  join crowd on crowd.process = lost.process
  join chimpbase.job on job.id = lost.id
  join chimpbase.queue on queue.id = job.queue
),
gone as (
  delete from chimpbase.job
  using judged
  where job.id = judged.id
    and judged.over
  returning job.*
),
buried as (
  insert into chimpbase.job_dead (
    id, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, reason, payload, headers,
    errors)
  select id, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes + 1, 'crashed',
    payload, headers,
    (case when jsonb_array_length(errors) >= 10 then errors - 0 else coalesce(errors, '[]') end) || :error::jsonb
  from gone
),
blocked as (
  update chimpbase.run
  set state = 'blocked',
      error = :error::jsonb ->> 'message'
  from gone, chimpbase.queue
  where queue.id = gone.queue
    and queue.kind = 'activation'
    and run.job = gone.id
    and run.number = case when queue.kind = 'activation' then gone.payload::bigint end
    and run.finished_at is null
),
back as (
  update chimpbase.job
  set process = null,
      claimed_at = null,
      crashes = job.crashes + 1,
      uncharged = job.uncharged + case when judged.spent then 1 else 0 end,
      sort = nextval('chimpbase.job_id'),
      errors = (case when jsonb_array_length(job.errors) >= 10 then job.errors - 0 else coalesce(job.errors, '[]') end)
        || :error::jsonb
  from judged
  where job.id = judged.id
    and not judged.over
  returning job.id, job.queue
),
resolved as (
  select chimpbase.resolve(array(select id from gone), array(select 'dead'::text from gone))
  where exists (select 1 from chimpbase.job_after)
)
select id, queue, false as dead from back
union all
select id, queue, (select count(*) from resolved) >= 0 from gone;

-- name: held_jobs
-- How many jobs these processes hold.
select count(*) from chimpbase.job where process = any (:processes::bigint[]);

-- name: list_orphaned
-- Processes that hold jobs and have no row, which only a deletion by hand leaves behind. Reads the whole table.
select distinct job.process
from chimpbase.job
where job.process is not null
  and not exists (select 1 from chimpbase.process where process.id = job.process);

-- name: count_by_queue
-- For each queue: ready, running, later and dead jobs.
select queue.name, queue.kind,
  (select count(*) from chimpbase.job where job.queue = queue.id and job.process is null)
    + (select count(*) from chimpbase.job_wait where job_wait.queue = queue.id) as ready,
  (select count(*) from chimpbase.job where job.queue = queue.id and job.process is not null) as running,
  (select count(*) from chimpbase.job_later where job_later.queue = queue.id) as later,
  (select count(*) from chimpbase.job_dead where job_dead.queue = queue.id) as dead,
  (select count(*) from chimpbase.job_done where job_done.queue = queue.id) as done
from chimpbase.queue
order by queue.name;
