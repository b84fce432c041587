-- Why a job is where it is, in few statements, for people.
-- Each statement is run by the function of the same name in explain.py.

-- name: find
-- Where a job is and what bears on it there: its queue, its process, how many are before it (at most 10,000 are counted),
-- the live processes that work its queue. No row when nobody knows it.
-- Touches: every table of jobs, queue, process and job_cancel, to be one view of them.
with here as (
  select 'job' as place, id, queue, priority, sort, attempt, uncharged, crashes, enqueued_at, claimed_at, process,
    null::timestamptz as due_at, null::timestamptz as ended_at, null::text as word, errors, xmax::text as locker, payload
  from chimpbase.job where id = :job
  union all
  select 'later', id, queue, priority, null, attempt, uncharged, crashes, enqueued_at, null, null,
    due_at, null, null, errors, null, payload
  from chimpbase.job_later where id = :job
  union all
  select 'gate', id, queue, priority, null, attempt, uncharged, crashes, enqueued_at, null, null,
    null, null, null, errors, null, payload
  from chimpbase.job_wait where id = :job
  union all
  select 'dead', id, queue, priority, null, attempt, uncharged, crashes, enqueued_at, null, null,
    null, died_at, reason, errors, null, payload
  from chimpbase.job_dead where id = :job
  union all
  select 'done', id, queue, 0, null, attempt, 0, crashes, enqueued_at, claimed_at, process,
    null, finished_at, outcome, errors, null, payload
  from chimpbase.job_done where id = :job
)
select here.place, here.attempt - here.uncharged as attempts, here.crashes, here.enqueued_at, here.claimed_at,
  nullif(here.due_at, 'infinity') as due_at, here.ended_at, here.word, here.errors -> -1 ->> 'error' as error_type,
  here.errors -> -1 ->> 'message' as error, here.locker, here.process, queue.id as queue, queue.name, queue.kind,
  queue.paused_at, queue.paused_by, queue.pause_reason, coalesce(queue.max_attempts, 0) as max_attempts,
  process.app, process.host, process.pid, process.id is null or process.dead_at is not null as is_lost,
  job_cancel.job is not null as cancel_asked, chimpbase.clock() as now,
  (
    select run.id from chimpbase.run where queue.kind = 'activation' and run.number::text = here.payload
  ) as run,
  (
    select jsonb_build_object('id', strike.id, 'by', strike.created_by, 'reason', strike.reason)::text
    from chimpbase.strike
    where queue.struck and strike.queue = here.queue and chimpbase.as_jsonb(here.payload) @> strike.filter
    order by strike.id
    limit 1
  ) as strike,
  (
    select count(*) from (
      select 1 from chimpbase.job
      where job.queue = here.queue
        and job.process is null
        and (job.priority, job.sort) < (here.priority, here.sort)
      limit 10000) as before
  ) as ahead,
  array(
    select one.id
    from chimpbase.process as one
    where here.queue = any (one.queues)
      and one.dead_at is null
      and one.beat_at > chimpbase.clock() - one.lease
    order by one.id
  ) as workers
from here
join chimpbase.queue on queue.id = here.queue
left join chimpbase.process on process.id = here.process
left join chimpbase.job_cancel on job_cancel.job = :job;

-- name: list_needs
-- What a job waits for: dead letters first, then as they were enqueued, with where each is; at most `most` of `total`. One
-- that is the job itself stands for the batch that it follows being open.
select needs.id as job, coalesce(chimpbase.job_state(needs.id), 'gone') as state, needs.total
from (
  select job_after.needs as id, job_dead.id is not null as is_dead, count(*) over () as total
  from chimpbase.job_after
  left join chimpbase.job_dead on job_dead.id = job_after.needs
  where job_after.job = :job
  order by job_dead.id is not null desc, job_after.needs
  limit :most
) as needs
order by needs.is_dead desc, needs.id;

-- name: find_holder
-- Whose transaction this is, if it is open: the one that has locked a job's row, for others pass it by.
select activity.pid, activity.application_name as application, activity.usename::text as user,
  activity.state, extract(epoch from clock_timestamp() - activity.xact_start)::float8 as age_s
from pg_catalog.pg_locks
join pg_catalog.pg_stat_activity as activity on activity.pid = pg_locks.pid
where pg_locks.locktype = 'transactionid'
  and pg_locks.mode = 'ExclusiveLock'
  and pg_locks.granted
  and pg_locks.transactionid::text = :xid
limit 1;

-- name: find_oldest_transaction
-- The transaction of this database that has been open longest, if longer than `age`, and keeps dead rows from being removed.
select activity.pid, activity.application_name as application, activity.usename::text as user,
  activity.state, extract(epoch from clock_timestamp() - activity.xact_start)::float8 as age_s
from pg_catalog.pg_stat_activity as activity
where activity.datname = current_database()
  and activity.backend_type = 'client backend'
  and activity.xact_start < clock_timestamp() - :age::interval
  and (activity.backend_xmin is not null or activity.backend_xid is not null)
  and activity.pid <> pg_catalog.pg_backend_pid()
order by activity.xact_start
limit 1;
