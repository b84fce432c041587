-- What an operator does to queues and jobs: cancel, pause, strike, redrive, explain.

-- Who paused a queue, and why. `paused_at` alone is enough to pause one by hand.
alter table chimpbase.queue
  add column paused_by text,
  add column pause_reason text;

-- That a running attempt should end. A row and not a message: it is there until the attempt has ended, however that
-- came about, and then it holds for whatever becomes of the job.
create table chimpbase.job_cancel (
  job           bigint primary key,
  process       bigint not null,
  attempt       int not null,
  reason        text,
  requested_at  timestamptz not null default chimpbase.clock()
);

-- One more entry in a job's history of errors, of which the last ten are kept.
create function chimpbase.with_error(errors jsonb, error jsonb) returns jsonb
language sql immutable parallel safe
as $$
  select (case when jsonb_array_length(errors) >= 10 then errors - 0 else coalesce(errors, '[]') end) || error
$$;

create function chimpbase.cancel_record(attempt int, reason text) returns jsonb
language sql immutable parallel safe
as $$
  select jsonb_build_object('attempt', attempt, 'error', 'Cancelled', 'message', coalesce(reason, 'no reason given'))
$$;

-- Cancel a job wherever it is. `outcome` is 'cancelled' (it waited, and is done), 'requested' (it runs; its process is
-- to end the attempt), 'ended', 'activation' (it belongs to a run, which is what can be cancelled) or 'unknown'.
-- A job may move between two of these statements, so they are repeated until one of them has seen it at rest.
create function chimpbase.cancel_job(job bigint, reason text, out outcome text, out queue int)
language plpgsql
as $$
declare
  seen record;
begin
  for attempts_left in reverse 100..1 loop
    with later as (
      delete from chimpbase.job_later j using chimpbase.queue q
      where j.id = cancel_job.job and q.id = j.queue and q.kind <> 'activation'
      returning j.id, j.enqueued_at, j.queue, j.attempt, j.uncharged, j.key, j.crashes, j.payload, j.headers, j.errors
    ),
    waiting as (
      delete from chimpbase.job_wait j using chimpbase.queue q
      where j.id = cancel_job.job and q.id = j.queue and q.kind <> 'activation'
      returning j.id, j.enqueued_at, j.queue, j.attempt, j.uncharged, nullif(j.key, '') as key, j.crashes, j.payload,
        j.headers, j.errors
    ),
    ready as (
      delete from chimpbase.job j using chimpbase.queue q
      where j.id = cancel_job.job and j.process is null and q.id = j.queue and q.kind <> 'activation'
      returning j.id, j.enqueued_at, j.queue, j.attempt, j.uncharged, j.key, j.crashes, j.payload, j.headers, j.errors
    ),
    gone as (
      select * from later union all select * from waiting union all select * from ready
    ),
    told as (
      -- one that was to be retried may have held up its key behind a gate
      insert into chimpbase.key_news (queue, key)
      select gone.queue, gone.key from gone join chimpbase.gate on gate.queue = gone.queue where gone.key is not null
    ),
    kept as (
      insert into chimpbase.job_done (
        id, finished_at, enqueued_at, queue, attempt, key, crashes, outcome, payload, headers, errors)
      select gone.id, chimpbase.clock(), gone.enqueued_at, gone.queue, gone.attempt - gone.uncharged, gone.key,
        gone.crashes, 'cancelled', gone.payload, gone.headers,
        chimpbase.with_error(gone.errors, chimpbase.cancel_record(gone.attempt - gone.uncharged, reason))
      from gone join chimpbase.queue q on q.id = gone.queue and q.retention is not null
    )
    select gone.queue into cancel_job.queue from gone;
    if found then
      delete from chimpbase.job_cancel c where c.job = cancel_job.job;
      -- it needs nobody any more, and whoever needs it is told: here, for without retention no trace is left for a sweep
      delete from chimpbase.job_after a where a.job = cancel_job.job;
      if exists (select from chimpbase.job_after a where a.needs = cancel_job.job) then
        perform chimpbase.resolve(array[cancel_job.job], array['cancelled']);
      end if;
      outcome := 'cancelled';
      return;
    end if;
    insert into chimpbase.job_cancel as asked (job, process, attempt, reason)
    select j.id, j.process, j.attempt, cancel_job.reason
    from chimpbase.job j join chimpbase.queue q on q.id = j.queue and q.kind <> 'activation'
    where j.id = cancel_job.job and j.process is not null
    on conflict on constraint job_cancel_pkey do update
    set process = excluded.process, attempt = excluded.attempt, reason = coalesce(asked.reason, excluded.reason);
    if found then
      outcome := 'requested';
      return;
    end if;
    select q.kind, here.alive, here.queue into seen
    from (
      select j.queue, true as alive from chimpbase.job j where j.id = cancel_job.job
      union all
      select j.queue, true from chimpbase.job_later j where j.id = cancel_job.job
      union all
      select j.queue, true from chimpbase.job_wait j where j.id = cancel_job.job
      union all
      select j.queue, false from chimpbase.job_dead j where j.id = cancel_job.job
      union all
      select j.queue, false from chimpbase.job_done j where j.id = cancel_job.job
    ) as here
    join chimpbase.queue q on q.id = here.queue;
    if not found or not seen.alive or seen.kind = 'activation' then
      queue := seen.queue;
      outcome := case when seen.kind = 'activation' then 'activation' when seen.alive is null then 'unknown' else 'ended' end;
      return;
    end if;
  end loop;
  raise exception using errcode = '40001', message = format('job %s moves faster than it can be cancelled', job);
end
$$;

-- What became of requests whose attempt has ended: it failed, was put off, given back or rescued. The request then holds
-- for the job.
create function chimpbase.settle_cancels(most int, out job bigint, out outcome text) returns setof record
language plpgsql
as $$
declare
  asked chimpbase.job_cancel;
begin
  for asked in
    select c.* from chimpbase.job_cancel c
    where not exists (
      select 1 from chimpbase.job j where j.id = c.job and j.process = c.process and j.attempt = c.attempt
    )
    order by c.job
    limit most
    for update of c skip locked
  loop
    delete from chimpbase.job_cancel c where c.job = asked.job;
    job := asked.job;
    select cancelled.outcome into outcome from chimpbase.cancel_job(asked.job, asked.reason) as cancelled;
    return next;
  end loop;
end
$$;

-- Cancel a job, waiting or running; what came of it: 'cancelled', 'requested' or 'ended'.
-- options: reason (text).
create function chimpbase.cancel(job bigint, options jsonb default '{}') returns text
language plpgsql
as $$
declare
  cancelled record;
begin
  perform chimpbase.check_options(options, array['reason']);
  select * into cancelled from chimpbase.cancel_job(job, options ->> 'reason');
  if cancelled.outcome = 'unknown' then
    raise exception using errcode = 'CB020', message = format('no job with id %s', job);
  elsif cancelled.outcome = 'activation' then
    raise exception using errcode = 'CB021', message = format('job %s is an activation of a workflow run', job),
      hint = 'Cancel the run.';
  end if;
  return cancelled.outcome;
end
$$;

-- Dead letters ---------------------------------------------------------------------------------------------------------

-- `dead_queue` is the queue named after this one with `.dead` behind it, once somebody has declared that: it gets an
-- envelope for every job that dies here. A queue of dead letters has none itself.
alter table chimpbase.queue add column dead_queue int;

create index job_dead_died on chimpbase.job_dead (died_at, id);

-- A payload as JSON, whatever somebody wrote into its column by hand.
create function chimpbase.as_json(text text) returns json
language plpgsql immutable
as $$
begin
  return text::json;
exception when others then
  return to_json(text);
end
$$;

create function chimpbase.as_jsonb(text text) returns jsonb
language plpgsql immutable
as $$
begin
  return text::jsonb;
exception when others then
  return to_jsonb(text);
end
$$;

-- Everybody who buries a job tells of it by this, in the same statement. Job_dead is not a hot table.
create function chimpbase.tell_dead() returns trigger
language plpgsql
as $$
begin
  insert into chimpbase.job_later (id, due_at, enqueued_at, queue, payload, headers)
  select nextval('chimpbase.job_id'), chimpbase.clock(), chimpbase.clock(), q.dead_queue,
    json_build_object(
      'job', b.id, 'queue', q.name, 'payload', chimpbase.as_json(b.payload), 'reason', b.reason,
      'error', b.errors -> -1 ->> 'message', 'error_type', b.errors -> -1 ->> 'error',
      'attempts', b.attempt - b.uncharged, 'failed_at', b.died_at, 'enqueued_at', b.enqueued_at)::text,
    case when jsonb_typeof(chimpbase.as_jsonb(b.headers)) = 'object'
      then (chimpbase.as_jsonb(b.headers) || jsonb_build_object('cause', 'job:' || b.id))::text
    end
  from buried b join chimpbase.queue q on q.id = b.queue
  where q.dead_queue is not null;
  return null;
end
$$;
create trigger tell_dead after insert on chimpbase.job_dead
  referencing new table as buried for each statement execute function chimpbase.tell_dead();

-- The dead letters that a filter names, newest first, after (`before_at`, `before_id`) if that is given. The filter has any
-- of: queue (its number), reason, error (the type's name), since, until, payload (contained), ids,
-- movable (no activations). Only the conditions
-- that are there are in the query, so that it can use their indexes.
create function chimpbase.find_dead(
  filter jsonb, before_at timestamptz, before_id bigint, oldest_first boolean, most int
) returns setof chimpbase.job_dead
language plpgsql stable
as $$
begin
  return query execute 'select d.* from chimpbase.job_dead d where true'
    || case when filter ? 'queue' then $q$ and d.queue = ($1 ->> 'queue')::int$q$ else '' end
    || case when filter ? 'reason' then $q$ and d.reason = $1 ->> 'reason'$q$ else '' end
    || case when filter ? 'error' then $q$ and d.errors -> -1 ->> 'error' = $1 ->> 'error'$q$ else '' end
    || case when filter ? 'since' then $q$ and d.died_at >= ($1 ->> 'since')::timestamptz$q$ else '' end
    || case when filter ? 'until' then $q$ and d.died_at < ($1 ->> 'until')::timestamptz$q$ else '' end
    || case when filter ? 'ids'
         then $q$ and d.id in (select value::bigint from jsonb_array_elements_text($1 -> 'ids'))$q$ else '' end
    || case when filter ? 'payload' then $q$ and chimpbase.as_jsonb(d.payload) @> ($1 -> 'payload')$q$ else '' end
    || case when filter ? 'movable'
         then $q$ and d.queue in (select q.id from chimpbase.queue q where q.kind <> 'activation')$q$ else '' end
    || case when before_at is null then '' else ' and (d.died_at, d.id) < ($2, $3)' end
    || case when oldest_first then ' order by d.died_at, d.id' else ' order by d.died_at desc, d.id desc' end
    || ' limit $4'
  using filter, before_at, before_id, most;
end
$$;

-- Strikes --------------------------------------------------------------------------------------------------------------

-- Jobs of a queue whose payload contains `filter` are held until the strike is lifted. Claims pass them by from the moment
-- it commits; a keeper then moves them to job_later, due in ten years and marked in their terms, so that no claim has to pass them by for long; what
-- makes one of them due sooner only has it looked at again.
create table chimpbase.strike (
  id            bigint generated always as identity primary key,
  queue         int not null,
  filter        jsonb not null,
  reason        text,
  created_by    text,
  created_at    timestamptz not null default chimpbase.clock()
);
create index strike_queue on chimpbase.strike (queue);
-- Whether a strike holds jobs of this queue: what a claim asks before it looks at any payload.
alter table chimpbase.queue add column struck boolean not null default false;
create index job_later_struck on chimpbase.job_later (id) where terms like '%"struck": true%';

create function chimpbase.is_struck(queue int, payload text) returns boolean
language sql stable
as $$
  select exists (
    select 1 from chimpbase.strike s
    where s.queue = is_struck.queue and chimpbase.as_jsonb(is_struck.payload) @> s.filter)
$$;

create function chimpbase.put_strike(queue int, filter jsonb, reason text, created_by text) returns bigint
language sql
as $$
  update chimpbase.queue q set struck = true where q.id = put_strike.queue;
  insert into chimpbase.strike (queue, filter, reason, created_by)
  values (put_strike.queue, put_strike.filter, put_strike.reason, put_strike.created_by)
  returning id;
$$;

-- Lift a strike: the queue it was of, or null when there is none of that number. What it held becomes ready by way of the
-- promoter, and is held again if another strike wants it.
create function chimpbase.lift_strike(strike bigint) returns int
language plpgsql
as $$
declare
  freed int;
begin
  select s.queue into freed from chimpbase.strike s where s.id = lift_strike.strike;
  if not found then
    return null;
  end if;
  -- before the strike: who adds another one to this queue meanwhile waits here
  perform 1 from chimpbase.queue q where q.id = freed for update;
  delete from chimpbase.strike s where s.id = lift_strike.strike;
  update chimpbase.queue q
  set struck = exists (select 1 from chimpbase.strike s where s.queue = q.id)
  where q.id = freed;
  return freed;
end
$$;

-- Move what strikes hold out of the way of claims, and back what none holds any more; how many moved. `span` jobs are looked
-- at in each place, those after the id `after`; `next` is where to go on, null when the end has been reached.
create function chimpbase.sweep_strikes(span int, after bigint, out moved int, out next bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
  freed int;
begin
  with seen as (
    select j.id, j.queue, j.payload from chimpbase.job j where j.id > after and j.process is null order by j.id limit span
  ),
  seen_waiting as (
    select w.id, w.queue, w.payload from chimpbase.job_wait w where w.id > after order by w.id limit span
  ),
  chosen as (
    select job.id from seen
    join chimpbase.queue q on q.id = seen.queue and q.struck
    join chimpbase.job on job.id = seen.id and job.process is null
    where chimpbase.is_struck(seen.queue, seen.payload)
    for update of job skip locked
  ),
  chosen_waiting as (
    select w.id from seen_waiting
    join chimpbase.queue q on q.id = seen_waiting.queue and q.struck
    join chimpbase.job_wait w on w.id = seen_waiting.id
    where chimpbase.is_struck(seen_waiting.queue, seen_waiting.payload)
    for update of w skip locked
  ),
  gone as (
    delete from chimpbase.job using chosen where job.id = chosen.id returning job.*
  ),
  gone_waiting as (
    delete from chimpbase.job_wait using chosen_waiting where job_wait.id = chosen_waiting.id returning job_wait.*
  ),
  held as (
    insert into chimpbase.job_later (
      id, due_at, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers,
      errors)
    select id, chimpbase.clock() + interval '10 years', enqueued_at, queue, attempt, uncharged, max_attempts, priority,
      key, (coalesce(terms::jsonb, '{}') || '{"struck": true}')::text, crashes, payload, headers, errors
    from gone
    union all
    select id, chimpbase.clock() + interval '10 years', enqueued_at, queue, attempt, uncharged, max_attempts, priority,
      nullif(key, ''), (coalesce(terms::jsonb, '{}') || '{"struck": true}')::text, crashes, payload, headers, errors
    from gone_waiting
    returning 1
  )
  select (select count(*) from held),
    least((select max(id) from seen having count(*) >= span), (select max(id) from seen_waiting having count(*) >= span))
  into moved, next;
  with free as (
    select l.id from chimpbase.job_later l
    where l.terms like '%"struck": true%' and not chimpbase.is_struck(l.queue, l.payload)
    limit span
    for update skip locked
  )
  update chimpbase.job_later l
  set due_at = chimpbase.clock(), terms = nullif((l.terms::jsonb - 'struck')::text, '{}')
  from free where l.id = free.id;
  get diagnostics freed = row_count;
  moved := moved + freed;
end
$$;

-- What the payloads of a queue look like, as a process declared last: see the runtime's check of what waits.
alter table chimpbase.queue add column fingerprint text;
