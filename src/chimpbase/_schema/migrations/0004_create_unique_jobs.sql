-- Unique jobs and idempotency keys, progress, dependencies.

-- How far a job says that it is. Rows of jobs that have ended are swept after a while.
create table chimpbase.job_progress (
  job           bigint primary key,
  attempt       int not null,
  fraction      double precision not null,
  note          text,
  at            timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- A row says that `job` is the holder of `name` in a queue; it is the lock that those who want the same name take one after
-- another. Whether the holder still counts is judged when somebody asks, from where the job is by then: nothing is done
-- about it when a job ends. With `until` the name is free again after that; rows that say nothing more are swept.
create table chimpbase.job_unique (
  queue         int not null,
  name          text not null,
  job           bigint not null,
  until         timestamptz,
  digest        text,
  primary key (queue, name)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

-- Under which name a job is unique: its key, or what its payload says in some fields, or all of its payload. As jsonb, so
-- that it is the same however the text was written.
create function chimpbase.unique_name(rule jsonb, payload jsonb) returns text
language plpgsql immutable
as $$
declare
  told jsonb := payload;
  missing text;
begin
  if rule ? 'key' and not rule ? 'fields' then
    return 'key:' || (rule ->> 'key');
  end if;
  if rule ? 'fields' then
    select field into missing
    from jsonb_array_elements_text(rule -> 'fields') as field
    where jsonb_typeof(payload) <> 'object' or not payload ? field
    limit 1;
    if found then
      -- else each of them would be the same as all the others
      raise exception using errcode = 'CB002', message = format('unique by field %L, which the payload has not', missing);
    end if;
    select jsonb_object_agg(field, payload -> field) into told from jsonb_array_elements_text(rule -> 'fields') as field;
  end if;
  return 'is:' || encode(sha256(convert_to(jsonb_build_array(rule -> 'key', told)::text, 'UTF8')), 'hex');
end
$$;

-- Refuse a rule that `enqueue_with` would not understand.
create function chimpbase.check_unique(rule jsonb) returns jsonb
language plpgsql immutable
as $$
declare
  states constant text[] := array['waiting', 'running', 'completed', 'cancelled', 'dead'];
begin
  if jsonb_typeof(rule) = 'string' then
    rule := jsonb_build_object('key', rule);
  end if;
  perform chimpbase.check_options(rule, array['key', 'fields', 'period', 'states', 'on_conflict']);
  perform chimpbase.key_option(rule, 'key'), chimpbase.number_option(rule, 'period', 0.001, 315619200);
  rule := jsonb_strip_nulls(rule);
  if rule ? 'fields' and (jsonb_typeof(rule -> 'fields') <> 'array' or rule -> 'fields' = '[]'
      or jsonb_path_exists(rule, '$.fields[*] ? (@.type() != "string")')) then
    raise exception using errcode = 'CB002', message = 'unique fields must be an array of names of fields';
  end if;
  if rule ? 'states' and (jsonb_typeof(rule -> 'states') <> 'array' or rule -> 'states' = '[]'
      or not to_jsonb(states) @> (rule -> 'states')) then
    raise exception using errcode = 'CB002',
      message = format('unique states must be an array of %s', array_to_string(states, ', '));
  end if;
  if coalesce(rule ->> 'on_conflict', 'skip') not in ('skip', 'replace', 'raise') then
    raise exception using errcode = 'CB002', message = 'unique on_conflict must be skip, replace or raise';
  end if;
  return rule;
end
$$;

-- Where a job is: waiting, running, dead, completed, cancelled; null when nothing is left of it. One statement's view.
create function chimpbase.job_state(job bigint) returns text
language sql stable
as $$
  select coalesce(
    (select case when j.process is null then 'waiting' else 'running' end from chimpbase.job j where j.id = job_state.job),
    (select 'waiting' from chimpbase.job_later l where l.id = job_state.job),
    (select 'waiting' from chimpbase.job_wait w where w.id = job_state.job),
    (select 'dead' from chimpbase.job_dead d where d.id = job_state.job),
    (select h.outcome from chimpbase.job_done h where h.id = job_state.job limit 1))
$$;

-- Put another job in the place of some that wait, under their ids: payload, time, and attempts from the first; the ids
-- for which that was done. One that is running, or on its way from one table to another, is not among them.
-- `attempt` never goes back, for it is a part of the fence: all that was tried so far is taken off the count instead.
create function chimpbase.replace_waiting(
  ids bigint[], payloads text[], due timestamptz, priority smallint, max_attempts int, headers text, key text, terms text
) returns bigint[]
language plpgsql
as $$
declare
  done bigint[];
begin
  with new as (
    select * from unnest(ids, payloads) as one (id, payload)
  ),
  ready as (
    update chimpbase.job j
    set payload = new.payload, priority = coalesce(replace_waiting.priority, 0::smallint), key = replace_waiting.key,
      max_attempts = replace_waiting.max_attempts, headers = replace_waiting.headers, terms = replace_waiting.terms,
      uncharged = j.attempt, crashes = 0, errors = null
    from new
    where j.id = new.id and j.process is null and due is null and j.key is not distinct from replace_waiting.key
    returning j.id
  ),
  later as (
    update chimpbase.job_later l
    set payload = new.payload, priority = coalesce(replace_waiting.priority, 0::smallint), key = replace_waiting.key,
      max_attempts = replace_waiting.max_attempts, headers = replace_waiting.headers, terms = replace_waiting.terms,
      uncharged = l.attempt, crashes = 0, errors = null,
      due_at = case when l.due_at = 'infinity' then l.due_at else coalesce(due, chimpbase.clock()) end
    from new
    where l.id = new.id
    returning l.id
  ),
  -- these become ready again by way of job_later, which finds them their place behind a gate, too
  moved as (
    delete from chimpbase.job j using new
    where j.id = new.id and j.process is null and (due is not null or j.key is distinct from replace_waiting.key)
    returning j.id, j.enqueued_at, j.queue, j.attempt, new.payload
  ),
  behind as (
    delete from chimpbase.job_wait w using new
    where w.id = new.id
    returning w.id, w.enqueued_at, w.queue, w.attempt, new.payload
  ),
  put as (
    insert into chimpbase.job_later (
      id, due_at, enqueued_at, queue, attempt, uncharged, payload, priority, max_attempts, headers, key, terms)
    select one.id, coalesce(due, chimpbase.clock()), one.enqueued_at, one.queue, one.attempt, one.attempt, one.payload,
      coalesce(replace_waiting.priority, 0::smallint), replace_waiting.max_attempts, replace_waiting.headers,
      replace_waiting.key, replace_waiting.terms
    from (select * from moved union all select * from behind) as one
    returning job_later.id
  )
  select array_agg(id) into done
  from (select id from ready union all select id from later union all select id from put) as one;
  return coalesce(done, '{}');
end
$$;

-- Lock jobs that wait, so that none of them begins before this transaction has ended; the ids of those locked.
create function chimpbase.hold_waiting(ids bigint[]) returns bigint[]
language plpgsql
as $$
declare
  held bigint[];
begin
  select array_agg(id) into held from (
    select id from chimpbase.job where id = any (ids) and process is null order by id for share) as one;
  select held || array_agg(id) into held from (
    select id from chimpbase.job_later where id = any (ids) order by id for share) as one;
  select held || array_agg(id) into held from (
    select id from chimpbase.job_wait where id = any (ids) order by id for share) as one;
  return coalesce(held, '{}');
end
$$;

-- Store a job for each payload unless its name is taken; `ids` has the job of each payload, old or new, in order.
-- `names` are their names; `rule` has states, period and on_conflict. Each name's row is locked first, all in one order,
-- which waits for others who want the same; then, in statements that see what those have committed, each holder is
-- judged. `refused` (an SQLSTATE) and `existing` tell of a name that is taken where that is an error: nothing was stored.
create function chimpbase.enqueue_unique(
  queue int, payloads text[], names text[], rule jsonb, due timestamptz, priority smallint, max_attempts int, headers text,
  key text, terms text, out ids bigint[], out refused text, out existing bigint
)
language plpgsql
as $$
declare
  conflict constant text := coalesce(rule ->> 'on_conflict', 'skip');
  states constant text[] := case
    when rule ? 'states' then array(select jsonb_array_elements_text(rule -> 'states'))
    else array['waiting', 'running']
  end;
  free_at constant timestamptz := chimpbase.clock() + make_interval(secs => (rule ->> 'period')::double precision);
  drawn bigint[];
  wanted text[];
  places bigint[];
  holders bigint[];
  digests text[];
  open int[];
  waiting bigint[];
  instead text[];
  settled bigint[];
  taken int[] := '{}';
begin
  if conflict = 'raise' and (select count(distinct name) from unnest(names) as name) < cardinality(names) then
    refused := 'CB006';
    return;
  end if;
  select array_agg(nextval('chimpbase.job_id') order by n) into drawn from generate_series(1, cardinality(payloads)) n;
  -- of several with one name the last counts when it replaces, else the first
  select array_agg(one.name order by one.name), array_agg(one.place order by one.name) into wanted, places
  from (
    select distinct on (name) name, place
    from unnest(names) with ordinality as asked (name, place)
    order by name, case when conflict = 'replace' then -place else place end
  ) as one;
  with locked as (
    insert into chimpbase.job_unique as u (queue, name, job, until, digest)
    select enqueue_unique.queue, one.name, drawn[one.place], free_at,
      case when rule ? 'once' then encode(sha256(convert_to(payloads[one.place]::jsonb::text, 'UTF8')), 'hex') end
    from unnest(wanted, places) as one (name, place)
    order by one.name
    on conflict on constraint job_unique_pkey do update set job = u.job
    returning u.name, u.job, u.digest
  )
  select array_agg(locked.job order by locked.name), array_agg(locked.digest order by locked.name)
  into holders, digests from locked;
  -- those that somebody held before, to be judged one way or the other
  open := array(select n from generate_subscripts(wanted, 1) n where holders[n] <> drawn[places[n]]);
  for round in 1 .. 50 loop
    exit when open = '{}';
    -- free: its time is over, or its job is no longer in a state that counts
    taken := taken || array(
      select n
      from unnest(open) as n
      join chimpbase.job_unique u on u.queue = enqueue_unique.queue and u.name = wanted[n]
      cross join lateral (select chimpbase.job_state(u.job) as state) as job
      where u.until <= chimpbase.clock()
        or case
             when rule ? 'once' then false
             when job.state is null then u.until is null or not states && array['completed', 'cancelled', 'dead']
             when conflict = 'replace' and job.state = 'running' then true
             else job.state <> all (states)
           end
    );
    open := array(select n from unnest(open) as n where n <> all (taken));
    if open = '{}' then
      exit;
    end if;
    if rule ? 'once' then
      select min(holders[n]) into existing from unnest(open) as n
      where digests[n] <> encode(sha256(convert_to(payloads[places[n]]::jsonb::text, 'UTF8')), 'hex');
    elsif conflict = 'raise' then
      select min(holders[n]) into existing from unnest(open) as n;
    end if;
    if existing is not null then
      refused := 'CB006';
      -- what was written above for new jobs says that they exist
      delete from chimpbase.job_unique u using unnest(wanted, places) as one (name, place)
      where u.queue = enqueue_unique.queue and u.name = one.name and u.job = drawn[one.place];
      return;
    end if;
    exit when conflict = 'skip' and ('running' = any (states) or rule ? 'once');
    select coalesce(array_agg(holders[n] order by n), '{}'), coalesce(array_agg(payloads[places[n]] order by n), '{}')
    into waiting, instead
    from unnest(open) as n where chimpbase.job_state(holders[n]) = 'waiting';
    if conflict = 'replace' then
      settled := chimpbase.replace_waiting(
        waiting, instead, enqueue_unique.due, enqueue_unique.priority, enqueue_unique.max_attempts, enqueue_unique.headers,
        enqueue_unique.key, enqueue_unique.terms);
    else
      settled := chimpbase.hold_waiting(waiting);
    end if;
    -- what moved meanwhile is judged again; what waits no longer, and counts all the same, stays as it is
    open := array(select n from unnest(open) as n where holders[n] = any (waiting) and holders[n] <> all (settled));
  end loop;
  if taken <> '{}' then
    update chimpbase.job_unique u
    set job = drawn[places[n]],
        until = free_at,
        digest = case when rule ? 'once' then encode(sha256(convert_to(payloads[places[n]]::jsonb::text, 'UTF8')), 'hex') end
    from unnest(taken) as n
    where u.queue = enqueue_unique.queue and u.name = wanted[n];
    holders := array(select case when n = any (taken) then drawn[places[n]] else holders[n] end
                     from generate_subscripts(holders, 1) n order by n);
  end if;
  -- `places` of those that are new, in the order given
  open := array(select places[n] from generate_subscripts(places, 1) n where holders[n] = drawn[places[n]] order by 1);
  if open <> '{}' then
    perform chimpbase.enqueue_alike(
      enqueue_unique.queue, array(select payloads[p] from unnest(open) with ordinality as o (p, n) order by n),
      enqueue_unique.due, enqueue_unique.priority, enqueue_unique.max_attempts, enqueue_unique.headers,
      enqueue_unique.key, enqueue_unique.terms, array(select drawn[p] from unnest(open) with ordinality as o (p, n) order by n));
  end if;
  ids := array(
    select one.holder
    from unnest(names) with ordinality as asked (name, place)
    join unnest(wanted, holders) as one (name, holder) on one.name = asked.name
    order by asked.place);
end
$$;

-- Store jobs that differ in their payloads alone, under ids that were drawn before.
create function chimpbase.enqueue_alike(
  queue int, payloads text[], due timestamptz, priority smallint, max_attempts int, headers text, key text, terms text,
  ids bigint[]
) returns void
language plpgsql
as $$
declare
  count constant int[] := array[cardinality(payloads)];
begin
  perform chimpbase.enqueue_jobs(
    array_fill(queue, count), payloads, '{}', array_fill(due, count), array_fill(priority, count),
    array_fill(max_attempts, count), array_fill(headers, count), array_fill(key, count), array_fill(terms, count), ids);
end
$$;

-- Of the options of `enqueue` those that ask who is there, in the form that `enqueue_with` takes.
create function chimpbase.check_asked(options jsonb) returns jsonb
language plpgsql immutable
as $$
begin
  if options ?& array['unique', 'idempotency_key'] then
    raise exception using errcode = 'CB002', message = 'give unique or idempotency_key, not both';
  end if;
  if options ?| array['after', 'after_failed'] then
    if options ?| array['unique', 'idempotency_key'] or not options ? 'after' then
      raise exception using errcode = 'CB002', message = 'give after, and after_failed with it; not with unique or idempotency_key';
    end if;
    if jsonb_typeof(options -> 'after') <> 'array'
        or jsonb_path_exists(options, 'strict $.after[*] ? (@.type() != "number" || @ < 1 || @ > 9223372036854775807 || @ != @.floor())')
        or coalesce(options ->> 'after_failed', 'wait') not in ('wait', 'run', 'cancel') then
      raise exception using errcode = 'CB002',
        message = 'after must be an array of ids of jobs, after_failed wait, run or cancel';
    end if;
    return jsonb_strip_nulls(jsonb_build_object('after', options -> 'after', 'after_failed', options -> 'after_failed'));
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'unique', case when options ? 'unique' then chimpbase.check_unique(options -> 'unique') end,
    'idempotency_key', chimpbase.key_option(options, 'idempotency_key')));
end
$$;

-- Store a job for each payload, as `asked` says: unique (an object that `check_unique` made), or idempotency_key. The id of
-- each payload's job in order, also where that is one that was there before; or why it was `refused`.
create function chimpbase.enqueue_with(
  queue int, payloads text[], delay interval, run_at timestamptz, priority smallint, max_attempts int, headers text,
  key text, terms text, asked jsonb, out ids bigint[], out refused text, out existing bigint
)
language plpgsql
as $$
declare
  due constant timestamptz := coalesce(run_at, chimpbase.clock() + nullif(delay, interval '0'));
  rule jsonb := asked -> 'unique';
  names text[];
begin
  if asked ?| array['after', 'batch', 'open'] then
    select a.ids, a.refused, a.existing into ids, refused, existing
    from chimpbase.enqueue_after(
      enqueue_with.queue, payloads, due, enqueue_with.priority, enqueue_with.max_attempts, enqueue_with.headers,
      enqueue_with.key, enqueue_with.terms, asked) as a;
    return;
  end if;
  if asked ? 'idempotency_key' then
    rule := '{"once": true, "period": 604800}';
    names := array(
      select 'once:' || (asked ->> 'idempotency_key') || case when cardinality(payloads) > 1 then '#' || n else '' end
      from generate_subscripts(payloads, 1) n order by n);
  else
    names := array(
      select chimpbase.unique_name(rule, payload::jsonb) from unnest(payloads) with ordinality as one (payload, n) order by n);
  end if;
  select u.ids, u.refused, u.existing into ids, refused, existing
  from chimpbase.enqueue_unique(
    enqueue_with.queue, payloads, names, rule, due, enqueue_with.priority, enqueue_with.max_attempts,
    enqueue_with.headers, enqueue_with.key, enqueue_with.terms) as u;
end
$$;

-- Dependencies: `job` rests in job_later, due at infinity, until none of its rows is left. `failed` says what it does when
-- the job it needs is dead: wait for a redrive, run all the same, or be cancelled too. A row whose two ids are the same
-- holds a batch open.
create table chimpbase.job_after (
  needs         bigint not null,
  job           bigint not null,
  failed        text not null default 'wait' check (failed in ('wait', 'run', 'cancel')),
  primary key (needs, job)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index job_after_job on chimpbase.job_after (job);

-- These jobs have ended: completed, cancelled or dead (or `closed`, a batch). Let go of what needed them.
-- Called as the last thing of the statements that end jobs. The rows of dependents are locked, in order, before anything is
-- decided: of two jobs that end at the same time one sees that the other has ended, too.
create function chimpbase.resolve(ended bigint[], outcomes text[]) returns void
language plpgsql
as $$
declare
  freed bigint[];
  refused bigint[];
begin
  loop
    perform from chimpbase.job_later l
    where l.id in (select a.job from chimpbase.job_after a where a.needs = any (ended))
    order by l.id
    for update;
    with one as (
      select * from unnest(ended, outcomes) as one (id, outcome)
    ),
    gone as (
      delete from chimpbase.job_after a using one
      where a.needs = one.id and not (one.outcome = 'dead' and a.failed = 'wait')
      returning a.job, a.needs, a.failed, one.outcome
    ),
    counted as (
      update chimpbase.job_later l
      set terms = jsonb_set(l.terms::jsonb, '{batch}', jsonb_build_object(
        'completed', (l.terms::jsonb #>> '{batch,completed}')::int + tally.completed,
        'dead', (l.terms::jsonb #>> '{batch,dead}')::int + tally.dead,
        'cancelled', (l.terms::jsonb #>> '{batch,cancelled}')::int + tally.cancelled))::text
      from (
        select job, count(*) filter (where outcome = 'completed') as completed,
          count(*) filter (where outcome = 'dead') as dead, count(*) filter (where outcome = 'cancelled') as cancelled
        from gone where needs <> job group by job
      ) as tally
      where l.id = tally.job and l.terms::jsonb ? 'batch'
    )
    select array_agg(distinct job), array_agg(distinct job) filter (where failed = 'cancel' and outcome in ('dead', 'cancelled'))
    into freed, refused from gone;
    exit when freed is null;
    update chimpbase.job_later l
    set due_at = coalesce((l.terms::jsonb ->> 'due')::timestamptz, chimpbase.clock())
    where l.id = any (freed) and l.id <> all (coalesce(refused, '{}')) and l.due_at = 'infinity'
      and not exists (select from chimpbase.job_after a where a.job = l.id);
    exit when refused is null;
    delete from chimpbase.job_after a where a.job = any (refused);
    with gone as (
      delete from chimpbase.job_later l where l.id = any (refused) and l.due_at = 'infinity' returning l.*
    ),
    kept as (
      insert into chimpbase.job_done (
        id, finished_at, enqueued_at, queue, attempt, key, crashes, outcome, payload, headers, errors)
      select gone.id, chimpbase.clock(), gone.enqueued_at, gone.queue, gone.attempt - gone.uncharged, gone.key, gone.crashes,
        'cancelled', gone.payload, gone.headers, chimpbase.with_error(gone.errors,
          chimpbase.cancel_record(gone.attempt - gone.uncharged, 'a job that it needs failed'))
      from gone join chimpbase.queue q on q.id = gone.queue and q.retention is not null
    )
    select array_agg(gone.id), array_agg('cancelled'::text) into ended, outcomes from gone;
    exit when ended is null;
  end loop;
end
$$;

-- The end of a job that went well and left no result, as the last statement of its handler's own transaction. It travels in
-- one message with the COMMIT: when the job is not held in that attempt any more this raises CB030, and the COMMIT is not
-- reached. Its plan is pinned, for it runs on connections of the application.
create function chimpbase.settle_job(job bigint, process bigint, attempt int) returns void
language plpgsql
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  gone chimpbase.job;
begin
  delete from chimpbase.job j
  where j.id = settle_job.job and j.process = settle_job.process and j.attempt = settle_job.attempt
  returning * into gone;
  if not found then
    raise exception using errcode = 'CB030', message = format('job %s is not held in attempt %s', job, attempt);
  end if;
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, headers, errors)
  select gone.id, chimpbase.clock(), gone.enqueued_at, gone.claimed_at, gone.process, gone.queue,
    gone.attempt - gone.uncharged, gone.key, gone.crashes, 'completed', gone.payload, gone.headers, gone.errors
  from chimpbase.queue q
  where q.id = gone.queue and q.retention is not null;
  if exists (select from chimpbase.job_after a where a.needs = gone.id) then
    perform chimpbase.resolve(array[gone.id], array['completed']);
  end if;
end
$$;

-- Look at up to `most` jobs after `since` that others need, and resolve those that have ended unseen: a dependency that was
-- committed while the job that it needs was just ending, or a job that was ended by hand. The last one looked at, or null.
create function chimpbase.resolve_missed(since bigint, most int) returns bigint
language plpgsql
as $$
declare
  ended bigint[];
  outcomes text[];
  last bigint;
begin
  select array_agg(one.needs) filter (where one.over), array_agg(one.state) filter (where one.over), max(one.needs)
  into ended, outcomes, last
  from (
    select page.needs, coalesce(page.state, 'completed') as state,
      case
        when page.state = 'dead' then exists (
          select from chimpbase.job_after a where a.needs = page.needs and a.failed <> 'wait')
        else coalesce(page.state, 'completed') not in ('waiting', 'running')
      end as over
    from (
      select needs, chimpbase.job_state(needs) as state
      from (select distinct a.needs from chimpbase.job_after a where a.needs > since order by a.needs limit most) as due
    ) as page
  ) as one;
  if ended is not null then
    perform chimpbase.resolve(ended, outcomes);
  end if;
  return last;
end
$$;

-- Lock jobs so that none of them ends before this transaction has; of those given, the ids that are there to be locked.
create function chimpbase.hold_needs(ids bigint[]) returns bigint[]
language plpgsql
as $$
declare
  held bigint[] := '{}';
begin
  held := held || array(select id from chimpbase.job where id = any (ids) order by id for key share);
  held := held || array(select id from chimpbase.job_later where id = any (ids) order by id for key share);
  held := held || array(select id from chimpbase.job_wait where id = any (ids) order by id for key share);
  return held || array(select id from chimpbase.job_dead where id = any (ids) order by id for key share);
end
$$;

-- Store a job for each payload that runs after others. `asked` has `after` (ids) and `after_failed`, or `batch` (the id of
-- the batch that they are members of), or `open`: the job itself is what follows a batch. `refused` is CB007 when the
-- job `existing` never existed, CB008 when that batch is closed.
create function chimpbase.enqueue_after(
  queue int, payloads text[], due timestamptz, priority smallint, max_attempts int, headers text, key text, terms text,
  asked jsonb, out ids bigint[], out refused text, out existing bigint
)
language plpgsql
as $$
declare
  failed constant text := coalesce(asked ->> 'after_failed', 'wait');
  batch constant bigint := (asked ->> 'batch')::bigint;
  wanted bigint[] := array(select distinct jsonb_array_elements_text(asked -> 'after')::bigint order by 1);
  needs bigint[];
  missing bigint[];
  bad bigint[];
begin
  select min(n) into existing from unnest(wanted) as n where n < 1 or n > (select last_value from chimpbase.job_id);
  if existing is not null then
    refused := 'CB007';
    return;
  end if;
  if batch is not null then
    perform from chimpbase.job_after a where a.needs = batch and a.job = batch for key share;
    if not found then
      refused := 'CB008';
      existing := batch;
      return;
    end if;
  end if;
  for round in 1 .. 50 loop
    needs := chimpbase.hold_needs(wanted);
    missing := array(select n from unnest(wanted) as n where n <> all (needs));
    -- one that is still there was on its way from one table to another
    exit when not exists (
      select from unnest(missing) as n where chimpbase.job_state(n) in ('waiting', 'running', 'dead'));
  end loop;
  -- those that failed already: what follows is done below, once the new jobs are there
  bad := array(select n from unnest(wanted) as n where failed <> 'wait' and chimpbase.job_state(n) = 'dead'
      or failed = 'cancel' and chimpbase.job_state(n) = 'cancelled');
  needs := array(select n from unnest(needs || bad) as n group by n);
  select array_agg(nextval('chimpbase.job_id') order by n) into ids from generate_series(1, cardinality(payloads)) n;
  if needs = '{}' and not asked ? 'open' then
    perform chimpbase.enqueue_alike(
      enqueue_after.queue, payloads, due, enqueue_after.priority, enqueue_after.max_attempts, enqueue_after.headers,
      enqueue_after.key, enqueue_after.terms, ids);
  else
    terms := coalesce(terms::jsonb, '{}') || jsonb_strip_nulls(jsonb_build_object('due', due, 'batch',
      case when asked ? 'open' then '{"completed": 0, "dead": 0, "cancelled": 0}'::jsonb end));
    terms := nullif(terms, '{}');
    insert into chimpbase.job_later (
      id, due_at, enqueued_at, queue, payload, priority, max_attempts, headers, key, terms)
    select one.id, 'infinity', chimpbase.clock(), enqueue_after.queue, one.payload,
      coalesce(enqueue_after.priority, 0::smallint), enqueue_after.max_attempts, enqueue_after.headers,
      enqueue_after.key, enqueue_after.terms
    from unnest(ids, payloads) as one (id, payload);
    insert into chimpbase.job_after (needs, job, failed)
    select need, id, failed from unnest(needs) as need cross join unnest(ids) as id;
  end if;
  if asked ? 'open' then
    insert into chimpbase.job_after (needs, job, failed) select id, id, 'run' from unnest(ids) as id;
  end if;
  if batch is not null then
    insert into chimpbase.job_after (needs, job, failed) select id, batch, 'run' from unnest(ids) as id;
  end if;
  if bad <> '{}' then
    perform chimpbase.resolve(bad, array(select chimpbase.job_state(n) from unnest(bad) with ordinality as b (n, o) order by o));
  end if;
end
$$;

-- The batch that this job follows has all its members: it runs when the last of them has ended. Or there is to be none.
create function chimpbase.close_batch(job bigint, given_up boolean) returns void
language plpgsql
as $$
begin
  if given_up then
    delete from chimpbase.job_later l where l.id = close_batch.job;
    delete from chimpbase.job_after a where a.job = close_batch.job;
  else
    perform chimpbase.resolve(array[close_batch.job], array['closed']);
  end if;
end
$$;
