-- The daily partitions of chimpbase.job_done.
-- Each statement is run by the function of the same name in partitions.py.

-- name: list_days
-- Every partition of the history but the default one: name and first day.
select child.relname as name, to_date(right(child.relname, 8), 'YYYYMMDD') as day
from pg_catalog.pg_inherits
join pg_catalog.pg_class as child on child.oid = inhrelid
where inhparent = 'chimpbase.job_done'::regclass
  and child.relname ~ '^job_done_[0-9]{8}$'
order by child.relname;

-- name: oldest_kept
-- The first day that some queue still wants, and today, by the database's clock.
select (chimpbase.clock() - coalesce(max(retention), interval '0'))::date as kept, chimpbase.clock()::date as today
from chimpbase.queue;

-- name: create
-- Make the partition of one day. Fails when it exists.
select chimpbase.create_history(:day::date);

-- name: drop
-- Drop the partition of one day, whole.
select chimpbase.drop_history(:day::date);
