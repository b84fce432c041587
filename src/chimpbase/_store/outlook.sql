-- What an idle process needs to know, in one statement a second, so that polling alone is complete.
-- Each statement is run by the function of the same name in outlook.py.

-- name: look
-- Which of these queues have ready jobs (those behind a gate too), which are paused, which have a gate; seconds until the
-- next delayed job and the next schedule of these queues, none when an occurrence waits for the one before; whether a
-- process died, whether somebody wants a job to end, and whether strikes hold jobs or some wait for others.
-- Index:  job_ready, job_wait_key, job_later_due, schedule_due, schedule_waiting.
-- Touches: chimpbase.queue, gate, job, job_wait, job_later, schedule, process, job_cancel and strike, to be one statement.
select
  array(
    select mine.id
    from unnest(:queues::int[]) as mine (id)
    join chimpbase.queue on queue.id = mine.id and queue.paused_at is null
    where exists (
      select 1
      from chimpbase.job
      where job.queue = mine.id
        and job.process is null
    )
    or exists (
      select 1
      from chimpbase.job_wait
      where job_wait.queue = mine.id
    )
  ) as ready,
  array(
    select mine.id
    from unnest(:queues::int[]) as mine (id)
    join chimpbase.queue on queue.id = mine.id and (queue.paused_at is not null or queue.struck)
  ) as paused,
  array(
    select gate.queue
    from chimpbase.gate
    where gate.queue = any (:queues::int[])
  ) as gated,
  (
    select extract(epoch from due_at - chimpbase.clock())::float8
    from chimpbase.job_later
    where due_at < 'infinity'
    order by due_at
    limit 1
  ) as later_s,
  (
    select min(
      case
        when exists (
          select 1
          from chimpbase.schedule
          where queue = mine.id
            and waiting
            and paused_at is null
        ) then 0
        else (
          select extract(epoch from next_at - chimpbase.clock())::float8
          from chimpbase.schedule
          where queue = mine.id
            and paused_at is null
          order by next_at
          limit 1
        )
      end
    )
    from unnest(:queues::int[]) as mine (id)
  ) as schedule_s,
  exists (
    select 1
    from chimpbase.process
    where dead_at is not null
      or greatest(beat_at, pg_postmaster_start_time()) < chimpbase.clock() - lease
  ) as died,
  exists (select 1 from chimpbase.job_cancel) as cancels,
  exists (select 1 from chimpbase.job_after) as awaited,
  array(select consumer from chimpbase.idle_slots(:consumers::int[], 0, array[]::int[])) as behind,
  exists (select 1 from chimpbase.strike)
    or exists (select 1 from chimpbase.job_later where terms like '%"struck": true%') as strikes;
