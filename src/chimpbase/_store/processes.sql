-- Processes: one row a boot, in chimpbase.process; its heartbeat is the lease of every job the process holds.
-- Each statement is run by the function of the same name in processes.py.

-- name: register
-- A new process; its id, never used before.
insert into chimpbase.process (app, host, pid, version, lease, queues)
values (:app, :host, :pid, :version, :lease::interval, :queues::int[])
returning id;

-- name: beat
-- Renew the lease; no row when the process was declared dead.
update chimpbase.process
set beat_at = chimpbase.clock()
where id = :process
  and dead_at is null
returning id;

-- name: hold
-- Lock a process until the end of the transaction: no claim of it is on its way then, whatever became of its connection.
-- Locks:  that row.
select id from chimpbase.process where id = :process for update;

-- name: list_live
-- Processes not declared dead.
select id, host, pid from chimpbase.process where dead_at is null order by id;

-- name: expire
-- Declare dead every process whose lease ran out, and those known to be gone; all dead ones that still have a row.
-- No lease runs out sooner than a lease after the server's own start: nobody could renew it while the server was down.
-- Locks:  those rows (for update, so that a claim in flight either is seen here or finds its process dead).
with expired as (
  select id
  from chimpbase.process
  where dead_at is null
    and (greatest(beat_at, pg_postmaster_start_time()) < chimpbase.clock() - lease
      or id = any (:gone::bigint[]))
  for update skip locked
),
died as (
  update chimpbase.process
  set dead_at = chimpbase.clock()
  from expired
  where process.id = expired.id
  returning process.id, process.host, process.pid, true as fresh
)
select id, host, pid, fresh from died
union all
select id, host, pid, false from chimpbase.process where dead_at is not null;

-- name: remove
-- Forget processes, but for those that still hold a job: without its process nobody would take it back. Those removed.
-- Touches: chimpbase.job, to see what is held.
delete from chimpbase.process
where id = any (:processes::bigint[])
  and not exists (select 1 from chimpbase.job where job.process = process.id)
returning id;
