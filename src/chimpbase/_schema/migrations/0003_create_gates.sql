-- Gates: what a queue with limits lets through, and what waits behind it.
--
-- A queue that was ever given limits has a gate, for good. Its jobs wait in job_wait, where no claim looks, and only
-- `admit` takes them from there, one admission of a queue at a time, fleet-wide. What runs is counted from the rows of job
-- each time: there is no counter, so nothing can leak, and a dead process frees its slots with its lease.

-- `declared` is what code says and `override` what an operator says; a field of the override stands before the same field
-- of the declaration, and null there means "no such limit". `settled` is false until an admission has seen a change.
-- The bucket held `tokens` at `refilled_at`; null is a full one.
create table chimpbase.gate (
  queue         int primary key references chimpbase.queue (id),
  settled       boolean not null default false,
  tokens        double precision,
  refilled_at   timestamptz not null default chimpbase.clock(),
  declared      jsonb not null default '{}',
  override      jsonb not null default '{}'
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Jobs behind a gate, ready but for it. A key is '' for a job that has none.
create table chimpbase.job_wait (
  id            bigint primary key,
  enqueued_at   timestamptz not null,
  queue         int not null,
  attempt       int not null default 0,
  uncharged     int not null default 0,
  max_attempts  int,
  priority      smallint not null default 0,
  crashes       smallint not null default 0,
  key           text not null default '',
  terms         text,
  payload       text not null,
  headers       text,
  errors        jsonb
) with (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  autovacuum_vacuum_cost_delay = 0
);
-- An expression, so that only who walks the whole line in order takes this index: a search for a key once did, and read
-- everything that other keys had waiting.
create index job_wait_line on chimpbase.job_wait ((queue + 0), priority, id);
create index job_wait_key on chimpbase.job_wait (queue, key, priority, id);

-- Producers append the keys of what they enqueue; an admission reads and deletes. Nobody waits for anybody.
create table chimpbase.key_news (
  queue         int not null,
  key           text not null
) with (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0
);
create index key_news_queue on chimpbase.key_news (queue);

-- A key's turn: it is open, with work perhaps, from `open_at` on, in that order. Null: nothing waits, or it is `full` of
-- running jobs and opens when an admission counts fewer. Only admissions write here.
create table chimpbase.job_key (
  queue         int not null,
  key           text not null,
  open_at       timestamptz,
  is_full       boolean not null default false,
  tokens        double precision,
  refilled_at   timestamptz not null,
  primary key (queue, key)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0);
create index job_key_open on chimpbase.job_key (queue, open_at) where open_at is not null;
create index job_key_full on chimpbase.job_key (queue) where is_full;

-- A job that failed before and will run again: it holds its key's line where order is strict.
create index job_later_key on chimpbase.job_later (queue, key)
  where key is not null and (attempt > uncharged or errors is not null);

-- What holds now: the declaration, with the operator's word before it.
create function chimpbase.limits_of(gate chimpbase.gate) returns jsonb
language sql immutable
as $$
  select jsonb_strip_nulls(gate.declared || gate.override)
$$;

-- What a bucket holds by now. A clock that was set back adds nothing.
create function chimpbase.refill(
  tokens double precision, refilled_at timestamptz, moment timestamptz, speed double precision, burst double precision
) returns double precision
language sql immutable
as $$
  select least(burst, coalesce(tokens, burst) + greatest(0, extract(epoch from moment - refilled_at)::float8) * speed)
$$;

-- When a gate's own bucket holds a token again; null where its rate is not limited.
create function chimpbase.gate_opens_at(gate chimpbase.gate) returns timestamptz
language sql stable
as $$
  select gate.refilled_at + make_interval(secs =>
    greatest(0, 1 - coalesce(gate.tokens, 1)) * (rate ->> 'per')::float8 / (rate ->> 'limit')::float8)
  from (select chimpbase.limits_of(gate) -> 'rate' as rate) as limits
$$;

-- Those of these queues that have no gate, as of now and not as of the caller's snapshot: a claim asks after it has locked
-- its process (whose id is passed to say so), and who closes a gate waits for that lock before it counts what runs.
create function chimpbase.ungated(queues int[], process bigint) returns int[]
language plpgsql volatile
as $$
begin
  -- mostly there is none, and to know that takes a third of the time
  if not exists (select 1 from chimpbase.gate where gate.queue = any (queues)) then
    return queues;
  end if;
  return array(
    select wanted.queue from unnest(queues) as wanted (queue)
    where not exists (select 1 from chimpbase.gate where gate.queue = wanted.queue)
  );
end
$$;

-- After a change of limits: wait for claims that do not know of this gate yet, and look at every key again.
create function chimpbase.settle_gate(queue int, moment timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_column
begin
  perform 1 from chimpbase.process order by id for update;
  update chimpbase.job_key set is_full = false, open_at = moment where job_key.queue = settle_gate.queue;
  insert into chimpbase.job_key (queue, key, open_at, refilled_at)
  with recursive waiting (key) as (
    (select key from chimpbase.job_wait w where w.queue = settle_gate.queue order by key limit 1)
    union all
    select (
      select w.key from chimpbase.job_wait w
      where w.queue = settle_gate.queue and w.key > waiting.key
      order by w.key limit 1
    )
    from waiting where waiting.key is not null
  )
  select settle_gate.queue, waiting.key, moment, moment from waiting where waiting.key is not null
  on conflict (queue, key) do nothing;
  update chimpbase.gate set settled = true where gate.queue = settle_gate.queue;
end
$$;

-- Bring behind the gate what became ready without asking (given back, rescued, promoted, woken), and hear of new work;
-- whether there was too much of it for one time.
create function chimpbase.gather_at_gate(queue int, moment timestamptz, strays boolean) returns boolean
language plpgsql
as $$
#variable_conflict use_column
declare
  most constant int := 10000;
  moved int := 0;
begin
  if strays then
    with stray as (
      select id from chimpbase.job
      where job.queue = gather_at_gate.queue and process is null
      order by priority, sort limit most
      for update skip locked
    ),
    gone as (
      delete from chimpbase.job using stray where job.id = stray.id returning job.*
    ),
    told as (
      insert into chimpbase.key_news (queue, key)
      select distinct gone.queue, coalesce(gone.key, '') from gone
    )
    insert into chimpbase.job_wait (
      id, enqueued_at, queue, attempt, uncharged, max_attempts, priority, crashes, key, terms, payload, headers, errors)
    select id, enqueued_at, gone.queue, attempt, uncharged, max_attempts, priority, crashes, coalesce(key, ''), terms,
      payload, headers, errors
    from gone;
    get diagnostics moved = row_count;
  end if;
  with news as (
    delete from chimpbase.key_news
    where ctid = any (array(
      select ctid from chimpbase.key_news where key_news.queue = gather_at_gate.queue limit most))
    returning key
  )
  insert into chimpbase.job_key (queue, key, open_at, refilled_at)
  select gather_at_gate.queue, news.key, moment, moment from news group by news.key
  on conflict (queue, key) do update set open_at = excluded.open_at
  where not job_key.is_full and (job_key.open_at is null or job_key.open_at > excluded.open_at);
  return moved = most or exists (select 1 from chimpbase.key_news where key_news.queue = gather_at_gate.queue);
end
$$;

-- Move jobs from behind the gate to a process, born claimed; what it got. A suspect (one crash away from the dead letters)
-- goes alone among its like, and only if `suspects`.
create function chimpbase.pass_gate(ids bigint[], process bigint, moment timestamptz, max_crashes int, suspects boolean)
returns chimpbase.job[]
language plpgsql
as $$
#variable_conflict use_column
declare
  passed chimpbase.job[];
begin
  with mine as (
    select w.id, w.crashes > 0 and w.crashes + 1 >= max_crashes as suspect
    from unnest(ids) as wanted (id)
    join chimpbase.job_wait w on w.id = wanted.id
    where not exists (select 1 from chimpbase.queue q where q.id = w.queue and q.struck)
      or not chimpbase.is_struck(w.queue, w.payload)
    for update of w skip locked
  ),
  gone as (
    delete from chimpbase.job_wait using mine
    where job_wait.id = mine.id
      and (not mine.suspect or suspects and mine.id = (select min(id) from mine where suspect))
    returning job_wait.*
  ),
  born as (
    insert into chimpbase.job (
      id, sort, enqueued_at, claimed_at, process, queue, attempt, uncharged, max_attempts, priority, crashes, key, terms,
      payload, headers, errors)
    select id, nextval('chimpbase.job_id'), enqueued_at, moment, pass_gate.process, queue, attempt + 1, uncharged,
      max_attempts, priority, crashes, nullif(key, ''), terms, payload, headers, errors
    from (select * from gone order by priority, id) as ordered
    returning job.*
  )
  select array_agg(born::chimpbase.job order by born.sort) into passed from born;
  return coalesce(passed, '{}');
end
$$;

-- One round: the keys whose turn it is pass up to a fair share of `room` each. Key '' (jobs without one) knows no limits of
-- a key. Where order is strict, a key is held by a job of it that failed and will run again, wherever that stands by now;
-- all that is asked in one statement, for it moves. Null when no key is open.
create function chimpbase.pass_by_turn(
  gate chimpbase.gate, room int, process bigint, moment timestamptz, max_crashes int, suspects boolean, inout busy jsonb,
  out passed chimpbase.job[]
)
language plpgsql
as $$
#variable_conflict use_column
declare
  limits constant jsonb := chimpbase.limits_of(gate);
  in_line constant boolean := coalesce(limits ->> 'ordered' = 'strict', false);
  most constant int := case when limits ? 'ordered' then 1 else (limits ->> 'key_concurrency')::int end;
  burst constant double precision := limits #>> '{key_rate,burst}';
  speed constant double precision := (limits #>> '{key_rate,limit}')::float8 / (limits #>> '{key_rate,per}')::float8;
  turn text[];
  ids bigint[];
  served jsonb;
begin
  select array_agg(key order by open_at) into turn from (
    select key, open_at from chimpbase.job_key
    where queue = gate.queue and open_at <= moment
    order by open_at limit room) as next;
  if turn is null then
    return;
  end if;
  with stray as (
    select distinct key from chimpbase.job where in_line and queue = gate.queue and job.process is null
  )
  select array_agg(head.id order by next.place, head.place) into ids
  from unnest(turn) with ordinality as next (key, place)
  join chimpbase.job_key k on k.queue = gate.queue and k.key = next.key
  cross join lateral (
    select w.id, row_number() over () as place from chimpbase.job_wait w
    where w.queue = gate.queue and w.key = next.key
      and (in_line and w.key <> '' or suspects or w.crashes = 0 or w.crashes + 1 < max_crashes)
    order by w.priority, w.id
    limit greatest(0, least(
      greatest(1, room / cardinality(turn)),
      case when k.key <> '' then most - coalesce((busy ->> k.key)::int, 0) end,
      case when k.key <> '' and burst is not null
        then floor(chimpbase.refill(k.tokens, k.refilled_at, moment, speed, burst) + 1e-6) end))
  ) as head
  where not (
    in_line and next.key <> '' and (
      next.key in (select stray.key from stray)
      -- a scalar, here and below: `exists` may be planned as a hash of the whole table
      or (
        select true from chimpbase.job_later l
        where l.queue = gate.queue and l.key = next.key and (l.attempt > l.uncharged or l.errors is not null)
        limit 1) is not null));
  passed := chimpbase.pass_gate(coalesce(ids, '{}'), process, moment, max_crashes, suspects);
  select coalesce(jsonb_object_agg(key, jobs), '{}') into served
  from (select coalesce(key, '') as key, count(*) as jobs from unnest(passed) group by 1) as counted;
  select busy || coalesce(jsonb_object_agg(key, coalesce((busy ->> key)::int, 0) + value::int), '{}') into busy
  from jsonb_each_text(served);
  update chimpbase.job_key k
  set tokens = case when burst is not null and k.key <> '' then bucket.rest end,
      refilled_at = moment,
      is_full = waits.present and k.key <> '' and coalesce((busy ->> k.key)::int, 0) >= coalesce(most, 2147483647),
      open_at = case
        when not waits.present or (k.key <> '' and coalesce((busy ->> k.key)::int, 0) >= most) then null
        when k.key <> '' and bucket.rest < 1 - 1e-6 then moment + make_interval(secs => (1 - bucket.rest) / speed)
        when served ? k.key then moment
        -- held by a job that will run again, or locked by somebody: look again
        else greatest(moment + interval '100 ms', (
          select min(l.due_at) from chimpbase.job_later l
          where in_line and k.key <> '' and l.queue = gate.queue and l.key = k.key
            and (l.attempt > l.uncharged or l.errors is not null)))
      end
  from unnest(turn) as mine (key)
  cross join lateral (
    select (
      select true from chimpbase.job_wait w where w.queue = gate.queue and w.key = mine.key limit 1) is not null as present
  ) as waits
  cross join lateral (
    select chimpbase.refill(one.tokens, one.refilled_at, moment, speed, burst) - coalesce((served ->> mine.key)::int, 0) as rest
    from chimpbase.job_key one where one.queue = gate.queue and one.key = mine.key
  ) as bucket
  where k.queue = gate.queue and k.key = mine.key;
end
$$;

-- Let up to `demand` jobs of a queue through its gate and lease them to a process, as one committed statement. Admissions of
-- a queue take turns, and each counts what runs from the rows of job after it got its turn; a count may be high, since an
-- end is on its way, but never low. `more`: at once again; `opens_s`: not before, unless something ends or arrives.
create function chimpbase.admit(
  queue int, process bigint, demand int, suspects boolean,
  out jobs chimpbase.job[], out more boolean, out opens_s double precision
)
language plpgsql
as $$
#variable_conflict use_column
declare
  gate chimpbase.gate;
  limits jsonb;
  moment timestamptz;
  max_crashes int;
  burst double precision;
  speed double precision;
  bucket double precision;
  busy jsonb;
  running int;
  strays boolean;
  room int;
  passed chimpbase.job[];
begin
  jobs := '{}';
  more := false;
  select g.* into gate from chimpbase.gate g where g.queue = admit.queue for update;
  if not found then
    return;
  end if;
  -- read after the wait for the turn: clock() stands still while a statement waits
  moment := chimpbase.clock() + (clock_timestamp() - statement_timestamp());
  if not gate.settled then
    perform chimpbase.settle_gate(gate.queue, moment);
  end if;
  perform 1 from chimpbase.process p where p.id = admit.process and p.dead_at is null for key share;
  if not found then
    return;
  end if;
  select q.max_crashes into max_crashes from chimpbase.queue q where q.id = gate.queue and q.paused_at is null;
  if not found then
    return;
  end if;
  strays := exists (select 1 from chimpbase.job j where j.queue = gate.queue and j.process is null);
  if chimpbase.gather_at_gate(gate.queue, moment, strays) then
    more := true;
    return;
  end if;
  select coalesce(sum(held), 0), coalesce(jsonb_object_agg(counted.key, held), '{}') into running, busy
  from (
    select coalesce(j.key, '') as key, count(*) as held
    from chimpbase.job j where j.queue = gate.queue and j.process is not null
    group by 1) as counted;
  limits := chimpbase.limits_of(gate);
  burst := limits #>> '{rate,burst}';
  if burst is not null then
    speed := (limits #>> '{rate,limit}')::float8 / (limits #>> '{rate,per}')::float8;
    bucket := chimpbase.refill(gate.tokens, gate.refilled_at, moment, speed, burst);
  end if;
  room := least(demand, (limits ->> 'concurrency')::int - running, floor(bucket + 1e-6));
  if limits ?| array['fair', 'ordered', 'key_concurrency', 'key_rate'] then
    update chimpbase.job_key k set is_full = false, open_at = moment
    where k.queue = gate.queue and k.is_full
      and coalesce((busy ->> k.key)::int, 0)
        < case when limits ? 'ordered' then 1 else coalesce((limits ->> 'key_concurrency')::int, 2147483647) end;
    while room > cardinality(jobs) loop
      select turn.busy, turn.passed into busy, passed
      from chimpbase.pass_by_turn(
        gate, room - cardinality(jobs), admit.process, moment, max_crashes, suspects, busy) as turn;
      exit when passed is null;
      suspects := suspects and not exists (
        select 1 from unnest(passed) as one where one.crashes > 0 and one.crashes + 1 >= max_crashes);
      jobs := jobs || passed;
    end loop;
    if room > cardinality(jobs) then
      select extract(epoch from k.open_at - moment) into opens_s from chimpbase.job_key k
      where k.queue = gate.queue and k.open_at > moment order by k.open_at limit 1;
    end if;
  elsif room > 0 then
    jobs := chimpbase.pass_gate(
      array(
        select w.id from chimpbase.job_wait w
        where w.queue + 0 = gate.queue and (suspects or w.crashes = 0 or w.crashes + 1 < max_crashes)
        order by w.priority, w.id limit room for update skip locked),
      admit.process, moment, max_crashes, suspects);
  end if;
  if burst is not null then
    bucket := bucket - cardinality(jobs);
    if jobs <> '{}' then
      update chimpbase.gate g set tokens = bucket, refilled_at = moment where g.queue = gate.queue;
    end if;
    if bucket < 1 - 1e-6 then
      opens_s := greatest(opens_s, (1 - bucket) / speed);
    end if;
  end if;
end
$$;
