-- The producer verbs. Our own clients, other drivers, triggers, psql and other languages all call these.
-- `options` comes last, as jsonb, so that no signature ever has to change. Errors have SQLSTATEs of their own:
--   CB001  no such queue or workflow     CB002  a bad option      CB003  a run with that id exists
--   CB004  the run has ended             CB005  no such run

-- Store jobs and return their ids in the order given. A null or non-positive delay makes a job ready at once. A ready job
-- of a queue with a gate waits behind it: in job_wait, with a note in key_news for whoever admits next.
create function chimpbase.enqueue_jobs(
  queues int[], payloads text[], delays interval[], priorities smallint[], max_attempts int[], headers text[],
  keys text[] default '{}'
) returns bigint[]
language plpgsql
as $$
declare
  ids bigint[];
  gated int[];
begin
  select array_agg(nextval('chimpbase.job_id') order by n) into ids from generate_series(1, cardinality(queues)) n;
  select array_agg(gate.queue) into gated from chimpbase.gate where gate.queue = any (queues);
  insert into chimpbase.job (id, sort, queue, key, payload, priority, max_attempts, headers)
  select new.id, new.id, new.queue, new.key, new.payload, coalesce(new.priority, 0::smallint), new.max_attempts,
    new.headers
  from unnest(ids, queues, payloads, delays, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys)
    as new (id, queue, payload, delay, priority, max_attempts, headers, key)
  where (new.delay is null or new.delay <= interval '0')
    and (gated is null or new.queue <> all (gated));
  insert into chimpbase.job_later (id, due_at, enqueued_at, queue, key, payload, priority, max_attempts, headers)
  select new.id, chimpbase.clock() + new.delay, chimpbase.clock(), new.queue, new.key, new.payload,
    coalesce(new.priority, 0::smallint), new.max_attempts, new.headers
  from unnest(ids, queues, payloads, delays, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys)
    as new (id, queue, payload, delay, priority, max_attempts, headers, key)
  where new.delay > interval '0';
  if gated is null then
    return ids;
  end if;
  with waiting as (
    insert into chimpbase.job_wait (id, enqueued_at, queue, key, payload, priority, max_attempts, headers)
    select new.id, chimpbase.clock(), new.queue, coalesce(new.key, ''), new.payload,
      coalesce(new.priority, 0::smallint), new.max_attempts, new.headers
    from unnest(ids, queues, payloads, delays, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys)
      as new (id, queue, payload, delay, priority, max_attempts, headers, key)
    where (new.delay is null or new.delay <= interval '0')
      and new.queue = any (gated)
    returning queue, key
  )
  insert into chimpbase.key_news (queue, key) select distinct waiting.queue, waiting.key from waiting;
  return ids;
end
$$;

-- Refuse an option that this function does not know, so that a misspelt one is never silently ignored.
create function chimpbase.check_options(options jsonb, known text[]) returns void
language plpgsql immutable
as $$
declare
  unknown text;
begin
  if jsonb_typeof(options) is distinct from 'object' then
    raise exception using errcode = 'CB002', message = 'options must be a JSON object';
  end if;
  select key into unknown from jsonb_object_keys(options) as key where not key = any (known) limit 1;
  if found then
    raise exception using errcode = 'CB002',
      message = format('unknown option %L; known: %s', unknown, array_to_string(known, ', '));
  end if;
end
$$;

-- Store one job in a queue and return its id.
-- options: delay (seconds), priority (lower runs first), max_attempts, key (what limits and order go by), headers (object).
create function chimpbase.enqueue(queue text, payload jsonb, options jsonb default '{}') returns bigint
language plpgsql
as $$
declare
  queue_id int;
begin
  perform chimpbase.check_options(options, array['delay', 'priority', 'max_attempts', 'key', 'headers']);
  if octet_length(options ->> 'key') not between 1 and 512 then
    raise exception using errcode = 'CB002', message = 'key must be text of 1 to 512 bytes';
  end if;
  select q.id into queue_id from chimpbase.queue q where q.name = enqueue.queue and q.kind = 'job';
  if not found then
    raise exception using errcode = 'CB001', message = format('no queue named %L', enqueue.queue),
      hint = 'A queue exists once a process that declares it has started.';
  end if;
  return (chimpbase.enqueue_jobs(
    array[queue_id], array[payload::text], array[make_interval(secs => (options ->> 'delay')::double precision)],
    array[(options ->> 'priority')::smallint], array[(options ->> 'max_attempts')::int], array[options ->> 'headers'],
    array[options ->> 'key']
  ))[1];
end
$$;

-- Store an event once and one delivery job for each subscription of its topic; return the event's id and the queues
-- that got a job, so that the caller can wake them after its commit.
create function chimpbase.publish_event(topic text, payload text, headers text, out event bigint, out queues int[])
language plpgsql
as $$
declare
  caused text;
begin
  insert into chimpbase.event (topic, payload, headers)
  values (publish_event.topic, publish_event.payload, publish_event.headers)
  returning id into event;
  caused := (coalesce(publish_event.headers::jsonb, '{}') || jsonb_build_object('event', event, 'topic', publish_event.topic))::text;
  select array_agg(s.queue order by s.queue) into queues
  from chimpbase.subscription s where s.topic = publish_event.topic;
  if queues is not null then
    perform chimpbase.enqueue_jobs(
      queues, array_fill(publish_event.payload, array[cardinality(queues)]), array[]::interval[], array[]::smallint[],
      array[]::int[], array_fill(caused, array[cardinality(queues)]));
  end if;
end
$$;

-- Publish an event: every subscription of the topic gets it, if and only if this transaction commits.
-- options: headers (object).
create function chimpbase.publish(topic text, payload jsonb, options jsonb default '{}') returns bigint
language plpgsql
as $$
begin
  perform chimpbase.check_options(options, array['headers']);
  return (chimpbase.publish_event(topic, payload::text, options ->> 'headers')).event;
end
$$;

-- Create a run and its first activation; return the queue of the activation. What cannot be done is answered in `refused`,
-- an SQLSTATE of ours, instead of raised: a caller who expected a conflict can go on in the same transaction.
create function chimpbase.start_run(
  workflow text, version int, id text, input text, delay interval, headers text,
  out queue int, out run_version int, out refused text
)
language plpgsql
as $$
declare
  activation bigint := nextval('chimpbase.job_id');
  run_number bigint;
begin
  select w.queue, w.version into queue, run_version from chimpbase.workflow w
  where w.name = start_run.workflow and (start_run.version is null or w.version = start_run.version)
  order by w.version desc limit 1;
  if not found then
    refused := 'CB001';
    return;
  end if;
  insert into chimpbase.run (id, workflow, version, queue, job, input, headers, state, wake_at)
  values (start_run.id, start_run.workflow, run_version, queue, activation, start_run.input, start_run.headers,
    case when start_run.delay > interval '0' then 'sleeping' else 'running' end,
    case when start_run.delay > interval '0' then chimpbase.clock() + start_run.delay end)
  on conflict on constraint run_id_key do nothing
  returning number into run_number;
  if not found then
    refused := 'CB003';
    return;
  end if;
  if start_run.delay > interval '0' then
    insert into chimpbase.job_later (id, due_at, enqueued_at, queue, payload, headers)
    values (activation, chimpbase.clock() + start_run.delay, chimpbase.clock(), queue, run_number::text, start_run.headers);
  else
    insert into chimpbase.job (id, sort, queue, payload, headers)
    values (activation, activation, queue, run_number::text, start_run.headers);
  end if;
end
$$;

-- Start a workflow; return the run's id.
-- options: id (default: a random UUID), version (default: the highest known), delay (seconds), headers (object).
create function chimpbase.start_workflow(workflow text, input jsonb default 'null', options jsonb default '{}') returns text
language plpgsql
as $$
declare
  run_id text := coalesce(options ->> 'id', gen_random_uuid()::text);
  refused text;
begin
  perform chimpbase.check_options(options, array['id', 'version', 'delay', 'headers']);
  refused := (chimpbase.start_run(
    workflow, (options ->> 'version')::int, run_id, input::text,
    make_interval(secs => (options ->> 'delay')::double precision), options ->> 'headers')).refused;
  case refused
    when 'CB001' then
      raise exception using errcode = refused,
        message = format('no workflow named %L%s', workflow, ' in version ' || (options ->> 'version')),
        hint = 'A workflow exists once a process that declares it has started.';
    when 'CB003' then
      raise exception using errcode = refused, message = format('a run with id %L exists', run_id);
    else null;
  end case;
  return run_id;
end
$$;

-- Store a signal and wake its run; return the queue to wake, or null when the run need not wake or is awake.
-- The run's row lock orders this against the run's own attempt to suspend: one of the two always sees the other.
-- As with `start_run`, what cannot be done is answered in `refused`; `state` is that of a run that has ended.
create function chimpbase.send_signal(id text, name text, payload text, out queue int, out refused text, out state text)
language plpgsql
as $$
declare
  run chimpbase.run;
  moved boolean;
begin
  select r.* into run from chimpbase.run r where r.id = send_signal.id for update;
  if not found then
    refused := 'CB005';
    return;
  end if;
  if run.finished_at is not null then
    refused := 'CB004';
    state := run.state;
    return;
  end if;
  insert into chimpbase.signal (run, name, payload) values (run.number, send_signal.name, send_signal.payload);
  with later as (
    delete from chimpbase.job_later l where l.id = run.job and send_signal.name = any (run.waits) returning l.*
  )
  insert into chimpbase.job (
    id, sort, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers, errors)
  select later.id, nextval('chimpbase.job_id'), later.enqueued_at, later.queue, later.attempt, later.uncharged,
    later.max_attempts, later.priority, later.key, later.terms, later.crashes, later.payload, later.headers, later.errors
  from later;
  moved := found;
  update chimpbase.run r
  set state = case when moved then 'running' else r.state end,
      waits = case when moved then null else r.waits end,
      wake_at = case when moved then null else r.wake_at end,
      woken = not moved
  where r.number = run.number;
  queue := case when moved then run.queue end;
end
$$;

-- Send a signal to a run, now or before the run waits for it: it is kept until a wait of that name consumes it.
create function chimpbase.signal(id text, name text, payload jsonb default 'null', options jsonb default '{}') returns void
language plpgsql
as $$
declare
  sent record;
begin
  perform chimpbase.check_options(options, array[]::text[]);
  sent := chimpbase.send_signal(id, name, payload::text);
  case sent.refused
    when 'CB004' then
      raise exception using errcode = sent.refused,
        message = format('run %L has ended as %s and takes no signals', id, sent.state), detail = sent.state;
    when 'CB005' then
      raise exception using errcode = sent.refused, message = format('no run with id %L', id);
    else null;
  end case;
end
$$;

-- The runtime's own: make or drop one day of history. The names are built from a date, never from a caller's text.
-- Making one takes turns, and what finished before the day's partition was made moves into it.
create function chimpbase.create_history(day date) returns void
language plpgsql
as $$
declare
  name text := 'job_done_' || to_char(day, 'YYYYMMDD');
  first timestamptz := day::timestamp at time zone 'UTC';
  next timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  lock table chimpbase.job_done in share update exclusive mode;
  if to_regclass(format('chimpbase.%I', name)) is not null then
    return;
  end if;
  -- created apart and then attached: attaching takes a weaker lock than creating in place
  execute format('create table chimpbase.%I (like chimpbase.job_done including all)', name);
  lock table chimpbase.job_done_default in access exclusive mode;
  execute format(
    'with late as (delete from chimpbase.job_done_default where finished_at >= %L and finished_at < %L returning *) '
    'insert into chimpbase.%I select * from late', first, next, name);
  execute format(
    'alter table chimpbase.job_done attach partition chimpbase.%I for values from (%L) to (%L)', name, first, next);
end
$$;

create function chimpbase.drop_history(day date) returns void
language plpgsql
as $$
begin
  execute format('drop table if exists chimpbase.%I', 'job_done_' || to_char(day, 'YYYYMMDD'));
end
$$;
