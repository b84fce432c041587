-- What an idle process needs to know, in one statement a second, so that polling alone is complete.
-- Each statement is run by the function of the same name in outlook.py.

-- name: look
-- Which of these queues have ready jobs; seconds until the next delayed job and the next schedule; whether a process died.
-- Index:  job_ready, job_later_due, schedule_next.
-- Touches: chimpbase.job, job_later, schedule and process, to be one statement.
select
  array(
    select mine.id
    from unnest(:queues::int[]) as mine (id)
    where exists (
      select 1
      from chimpbase.job
      where job.queue = mine.id
        and job.process is null
    )
  ) as ready,
  (
    select extract(epoch from due_at - chimpbase.clock())::float8
    from chimpbase.job_later
    where due_at < 'infinity'
    order by due_at
    limit 1
  ) as later_s,
  (
    select extract(epoch from next_at - chimpbase.clock())::float8
    from chimpbase.schedule
    where paused_at is null
    order by next_at
    limit 1
  ) as schedule_s,
  exists (
    select 1
    from chimpbase.process
    where dead_at is not null
      or greatest(beat_at, pg_postmaster_start_time()) < chimpbase.clock() - lease
  ) as died;
