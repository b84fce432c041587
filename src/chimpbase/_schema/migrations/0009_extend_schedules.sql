-- Schedules that are made, changed and paused at run time; what becomes of instants that overlap; who fires what.

alter table chimpbase.schedule
  add column declared   boolean not null default true,
  add column payload    text,
  add column max_missed int not null default 100 check (max_missed between 1 and 10000),
  add column overlap    text not null default 'allow'
                        check (overlap in ('allow', 'skip', 'queue', 'cancel_previous')),
  add column jitter     interval not null default '0' check (jitter >= '0'),
  add column waiting    boolean not null default false,
  add column last_at    timestamptz,
  add column last_job   bigint,
  set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
comment on column chimpbase.schedule.declared is 'Whether code declares it; otherwise it was made at run time.';
comment on column chimpbase.schedule.waiting is 'Whether occurrences wait for the job of the one before to end.';
comment on column chimpbase.schedule.last_job is 'The job of the occurrence that was fired last, for overlap.';

-- A process fires what it can run itself, so that the schedules of a missing worker collapse instead of piling up jobs.
drop index chimpbase.schedule_next;
create index schedule_due on chimpbase.schedule (queue, next_at) where paused_at is null;
create index schedule_waiting on chimpbase.schedule (queue) where waiting and paused_at is null;

alter table chimpbase.occurrence
  add column state text not null default 'fired' check (state in ('fired', 'waiting', 'skipped')),
  alter column job drop not null,
  add check ((job is null) = (state <> 'fired')),
  set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index occurrence_waiting on chimpbase.occurrence (schedule, due_at) where state = 'waiting';

-- What an occurrence is to its job: to a handler of schedules the instant and the schedule's payload, to a worker that
-- payload alone.
create function chimpbase.occurrence_job(kind text, schedule text, due_at timestamptz, payload text) returns text
language sql stable
as $$
  select case
    when kind = 'occurrence' then
      json_build_object('schedule', schedule, 'due_at', due_at, 'payload', payload::json)::text
    else coalesce(payload, 'null')
  end
$$;

-- Each occurrence begins a trace of its own.
create function chimpbase.occurrence_headers(schedule text) returns text
language sql volatile
as $$
  select json_build_object('trace', replace(gen_random_uuid()::text, '-', ''), 'cause', 'cron:' || schedule)::text
$$;
