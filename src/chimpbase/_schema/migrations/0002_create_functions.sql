-- The producer verbs. Our own clients, other drivers, triggers, psql and other languages all call these.
-- `options` comes last, as jsonb, so that no signature ever has to change. Errors have SQLSTATEs of their own:
--   CB001  no such queue       CB002  a bad option      CB006  such a job is there already

-- Store jobs and return their ids in the order given: new ones, or `ids` when they were drawn before, maybe long ago: such
-- jobs get a place in the order of their queue of their own, as whoever claims has looked beyond those ids. A job is due at
-- `due`, else after `delay`, and ready at once when that is null or past. Of the arrays after `payloads` each may be
-- empty, which says that no job has such a thing. A ready job of a queue with a gate waits behind it: in job_wait, with a
-- note in key_news for whoever admits next.
create function chimpbase.enqueue_jobs(
  queues int[], payloads text[], delays interval[], dues timestamptz[], priorities smallint[], max_attempts int[],
  headers text[], keys text[], terms text[], ids bigint[] default null
) returns bigint[]
language plpgsql
as $$
declare
  gated int[];
  drawn constant boolean := ids is not null;
begin
  if ids is null and cardinality(queues) = 1 and delays[1] is null and dues[1] is null then
    -- most calls are of one ready job, and arrays cost more than that; where there is a gate, this does nothing
    insert into chimpbase.job (id, sort, queue, payload, priority, max_attempts, headers, key, terms)
    select new.id, new.id, queues[1], payloads[1], coalesce(priorities[1], 0::smallint), enqueue_jobs.max_attempts[1],
      enqueue_jobs.headers[1], keys[1], enqueue_jobs.terms[1]
    from nextval('chimpbase.job_id') as new (id)
    where not exists (select 1 from chimpbase.gate where gate.queue = queues[1])
    returning array[id] into ids;
    if found then
      return ids;
    end if;
  end if;
  select array_agg(gate.queue) into gated from chimpbase.gate where gate.queue = any (queues);
  if ids is null then
    select array_agg(nextval('chimpbase.job_id') order by n) into ids from generate_series(1, cardinality(queues)) n;
  end if;
  insert into chimpbase.job (id, sort, queue, payload, priority, max_attempts, headers, key, terms)
  select new.id, case when drawn then nextval('chimpbase.job_id') else new.id end, new.queue, new.payload,
    coalesce(new.priority, 0::smallint), new.max_attempts, new.headers, new.key, new.terms
  from unnest(ids, queues, payloads, delays, dues, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys,
      enqueue_jobs.terms)
    as new (id, queue, payload, delay, due, priority, max_attempts, headers, key, terms)
  where coalesce(new.due, chimpbase.clock() + new.delay, '-infinity') <= chimpbase.clock()
    and (gated is null or new.queue <> all (gated));
  if cardinality(delays) > 0 or cardinality(dues) > 0 then
    insert into chimpbase.job_later (
      id, due_at, enqueued_at, queue, payload, priority, max_attempts, headers, key, terms)
    select new.id, coalesce(new.due, chimpbase.clock() + new.delay), chimpbase.clock(), new.queue, new.payload,
      coalesce(new.priority, 0::smallint), new.max_attempts, new.headers, new.key, new.terms
    from unnest(ids, queues, payloads, delays, dues, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys,
        enqueue_jobs.terms)
      as new (id, queue, payload, delay, due, priority, max_attempts, headers, key, terms)
    where coalesce(new.due, chimpbase.clock() + new.delay) > chimpbase.clock();
  end if;
  if gated is null then
    return ids;
  end if;
  with waiting as (
    insert into chimpbase.job_wait (id, enqueued_at, queue, key, payload, priority, max_attempts, headers, terms)
    select new.id, chimpbase.clock(), new.queue, coalesce(new.key, ''), new.payload,
      coalesce(new.priority, 0::smallint), new.max_attempts, new.headers, new.terms
    from unnest(ids, queues, payloads, delays, dues, priorities, enqueue_jobs.max_attempts, enqueue_jobs.headers, keys,
        enqueue_jobs.terms)
      as new (id, queue, payload, delay, due, priority, max_attempts, headers, key, terms)
    where coalesce(new.due, chimpbase.clock() + new.delay, '-infinity') <= chimpbase.clock()
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

-- The value of an option: a number from `low` to `high`, or null when it is absent.
create function chimpbase.number_option(options jsonb, name text, low double precision, high double precision)
returns double precision
language plpgsql immutable
as $$
begin
  if options -> name is null or jsonb_typeof(options -> name) = 'null' then
    return null;
  end if;
  -- as numeric, which takes every JSON number: one that is far too large must be refused like any other
  if jsonb_typeof(options -> name) <> 'number' or not (options ->> name)::numeric between low and high then
    raise exception using errcode = 'CB002', message = format('option %s must be a number from %s to %s', name, low, high);
  end if;
  return (options ->> name)::double precision;
end
$$;

create function chimpbase.whole_option(options jsonb, name text, low int, high int) returns int
language plpgsql immutable
as $$
declare
  value double precision := chimpbase.number_option(options, name, low, high);
begin
  if value <> trunc(value) then
    raise exception using errcode = 'CB002',
      message = format('option %s must be a whole number from %s to %s', name, low, high);
  end if;
  return value;
end
$$;

create function chimpbase.duration_option(options jsonb, name text) returns interval
language sql immutable
as $$
  select make_interval(secs => chimpbase.number_option(options, name, 0, 315619200))
$$;

-- A text of 1 to 512 bytes without control characters, which many tools would not show.
create function chimpbase.key_option(options jsonb, name text) returns text
language plpgsql immutable
as $$
begin
  if options -> name is null or jsonb_typeof(options -> name) = 'null' then
    return null;
  end if;
  if jsonb_typeof(options -> name) <> 'string' or not octet_length(options ->> name) between 1 and 512
      or options ->> name ~ '[\u0001-\u001f\u007f-\u009f]' then
    raise exception using errcode = 'CB002',
      message = format('option %s must be a text of 1 to 512 bytes without control characters', name);
  end if;
  return options ->> name;
end
$$;

-- An instant with its offset from UTC: without one it would mean something else in each session.
create function chimpbase.instant_option(options jsonb, name text) returns timestamptz
language plpgsql stable
as $$
begin
  if options -> name is null or jsonb_typeof(options -> name) = 'null' then
    return null;
  end if;
  if jsonb_typeof(options -> name) = 'string'
      and options ->> name ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$' then
    begin
      return (options ->> name)::timestamptz;
    exception when data_exception then
      null;
    end;
  end if;
  raise exception using errcode = 'CB002',
    message = format('option %s must be an instant with an offset, such as 2027-01-31T09:00:00Z', name);
end
$$;

-- What is asked for one job alone and has no column, as the text that is stored with it; null when there is none.
-- `retry` replaces the worker's policy: max_attempts, first and cap (seconds), factor, jitter.
create function chimpbase.job_terms(options jsonb) returns text
language plpgsql stable
as $$
declare
  not_after timestamptz := chimpbase.instant_option(options, 'not_after');
  retry jsonb := options -> 'retry';
begin
  if jsonb_typeof(retry) = 'null' then
    retry := null;
  end if;
  if retry is not null then
    perform chimpbase.check_options(retry, array['max_attempts', 'first', 'factor', 'cap', 'jitter']);
    perform chimpbase.whole_option(retry, 'max_attempts', 1, 1000), chimpbase.number_option(retry, 'first', 0, 31622400),
      chimpbase.number_option(retry, 'cap', 0, 31622400), chimpbase.number_option(retry, 'factor', 1, 100),
      chimpbase.number_option(retry, 'jitter', 0, 1);
    if coalesce((retry ->> 'first')::float8, 1) > coalesce((retry ->> 'cap')::float8, 3600) then
      raise exception using errcode = 'CB002', message = 'retry waits longer at first than its cap allows';
    end if;
    if options ? 'max_attempts' and retry ? 'max_attempts' then
      raise exception using errcode = 'CB002', message = 'max_attempts is given twice, by itself and in retry';
    end if;
  end if;
  return nullif(jsonb_strip_nulls(jsonb_build_object(
    'not_after', to_char(not_after at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'retry', retry)), '{}')::text;
end
$$;

-- Store one job in a queue and return its id.
-- options: delay (seconds) or run_at (an instant), not_after (an instant: not begun any later than that), priority
--   (lower runs first), key, max_attempts, retry (object), headers (object), unique (a key, or an object with key, fields,
--   period, states, on_conflict) or idempotency_key: then the id may be that of a job that was there before.
create function chimpbase.enqueue(queue text, payload jsonb, options jsonb default '{}') returns bigint
language plpgsql
as $$
declare
  queue_id int;
  delay interval;
  run_at timestamptz;
  priority smallint;
  attempts int;
  key text;
  terms text;
  stored record;
begin
  perform chimpbase.check_options(options, array[
    'delay', 'run_at', 'not_after', 'priority', 'key', 'max_attempts', 'retry', 'headers', 'unique', 'idempotency_key',
    'after', 'after_failed']);
  -- null is as good as absent
  select coalesce(jsonb_object_agg(given.key, given.value), '{}') into options
  from jsonb_each(options) as given where jsonb_typeof(given.value) <> 'null';
  delay := chimpbase.duration_option(options, 'delay');
  run_at := chimpbase.instant_option(options, 'run_at');
  priority := chimpbase.whole_option(options, 'priority', -100, 100);
  key := chimpbase.key_option(options, 'key');
  terms := chimpbase.job_terms(options);
  attempts := coalesce(
    chimpbase.whole_option(options, 'max_attempts', 1, 1000), (options #>> '{retry,max_attempts}')::int);
  if options ? 'delay' and options ? 'run_at' then
    raise exception using errcode = 'CB002', message = 'give delay or run_at, not both';
  end if;
  if jsonb_typeof(options -> 'headers') <> 'object' then
    raise exception using errcode = 'CB002', message = 'option headers must be an object';
  end if;
  select q.id into queue_id from chimpbase.queue q where q.name = enqueue.queue and q.kind = 'job';
  if not found then
    raise exception using errcode = 'CB001', message = format('no queue named %L', enqueue.queue),
      hint = 'A queue exists once a process that declares it has started.';
  end if;
  if not options ?| array['unique', 'idempotency_key', 'after', 'after_failed'] then
    return (chimpbase.enqueue_jobs(
      array[queue_id], array[payload::text], array[delay], array[run_at], array[priority], array[attempts],
      array[options ->> 'headers'], array[key], array[terms]))[1];
  end if;
  select * into stored from chimpbase.enqueue_with(
    queue_id, array[payload::text], delay, run_at, priority, attempts, options ->> 'headers', key, terms,
    chimpbase.check_asked(options));
  if stored.refused is not null then
    raise exception using errcode = stored.refused, detail = stored.existing,
      message = format('queue %L has such a job already, or one of this idempotency key with another payload', queue);
  end if;
  return stored.ids[1];
end
$$;

-- Store an event once and one delivery job for each subscription of its topic; return the event's id and the queues
-- that got a job, so that the caller can wake them after its commit.
create function chimpbase.publish_event(topic text, payload text, headers text, out event bigint, out queues int[])
language plpgsql
as $$
declare
  caused text;
  keys text[];
begin
  insert into chimpbase.event (topic, payload, headers)
  values (publish_event.topic, publish_event.payload, publish_event.headers)
  returning id into event;
  caused := (coalesce(publish_event.headers::jsonb, '{}') || jsonb_build_object('event', event, 'topic', publish_event.topic))::text;
  select array_agg(s.queue order by s.queue),
    array_agg(chimpbase.delivery_key(publish_event.payload, s.key_path) order by s.queue)
  into queues, keys
  from (
    select * from chimpbase.subscription where subscription.topic = publish_event.topic
    union all
    select * from chimpbase.subscription where matcher is not null and publish_event.topic ~ matcher
  ) as s
  where s.conditions is null or chimpbase.meets(publish_event.payload::jsonb, s.conditions);
  if queues is not null then
    perform chimpbase.enqueue_jobs(
      queues, array_fill(publish_event.payload, array[cardinality(queues)]), '{}', '{}', '{}', '{}',
      array_fill(caused, array[cardinality(queues)]), keys, '{}');
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
  if topic is null or payload is null or topic !~ '^[A-Za-z0-9_.:/-]{1,128}$' then
    raise exception using errcode = 'CB002', message = 'publish takes a topic and a payload';
  end if;
  return (chimpbase.publish_event(topic, payload::text, options ->> 'headers')).event;
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
