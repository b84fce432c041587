-- The schema after all migrations. `make schema` writes this file and a test compares it: read it, never edit it.

create sequence chimpbase.broadcast_id as bigint cache 1000;

create sequence chimpbase.document_version as bigint;

create sequence chimpbase.entry_id as bigint;

create sequence chimpbase.job_id as bigint;

create sequence chimpbase.kv_cache_version as bigint cache 1000;

create sequence chimpbase.kv_version as bigint;

create unlogged table chimpbase.broadcast (
  xid xid8 not null default pg_current_xact_id(),
  id bigint not null default nextval('chimpbase.broadcast_id'::regclass),
  sent_at timestamp with time zone not null default chimpbase.clock(),
  topic text not null,
  payload text not null,
  headers text,
  constraint broadcast_pkey PRIMARY KEY (xid, id)
) with (
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=5000,
  autovacuum_vacuum_cost_delay=0
);

create unlogged table chimpbase.broadcast_era (
  one boolean not null default true,
  era uuid not null default gen_random_uuid(),
  constraint broadcast_era_pkey PRIMARY KEY (one),
  constraint broadcast_era_one_check CHECK (one)
);

create table chimpbase.callback (
  token text not null,
  run bigint not null,
  key text not null,
  completed_at timestamp with time zone,
  constraint callback_pkey PRIMARY KEY (token)
);
CREATE INDEX callback_run ON chimpbase.callback USING btree (run);

create table chimpbase.consumer (
  id integer not null generated always as identity,
  name text not null,
  stream integer not null,
  partitions integer not null,
  paused_at timestamp with time zone,
  created_at timestamp with time zone not null default chimpbase.clock(),
  constraint consumer_pkey PRIMARY KEY (id),
  constraint consumer_name_key UNIQUE (name),
  constraint consumer_partitions_check CHECK (((partitions >= 1) AND (partitions <= 1024)))
);

create table chimpbase.consumer_dead (
  consumer integer not null,
  entry bigint not null,
  slot integer not null,
  version bigint,
  appended_at timestamp with time zone not null,
  died_at timestamp with time zone not null default chimpbase.clock(),
  redriven_at timestamp with time zone,
  key text,
  payload text not null,
  headers text,
  error text not null,
  constraint consumer_dead_pkey PRIMARY KEY (consumer, entry)
);
CREATE INDEX consumer_dead_redriven ON chimpbase.consumer_dead USING btree (consumer, slot, entry) WHERE (redriven_at IS NOT NULL);

create table chimpbase.consumer_slot (
  consumer integer not null,
  slot integer not null,
  attempt integer not null default 0,
  fence bigint not null default 0,
  process bigint,
  taken_at timestamp with time zone,
  retry_at timestamp with time zone,
  blocked_at timestamp with time zone,
  since timestamp with time zone,
  prev_epoch integer,
  prev pg_snapshot,
  cur_epoch integer,
  cur pg_snapshot,
  floor bigint not null default 0,
  last bigint not null default 0,
  moved_at timestamp with time zone,
  error text,
  constraint consumer_slot_pkey PRIMARY KEY (consumer, slot)
) with (
  fillfactor=50,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=500
);

create table chimpbase.document (
  collection text not null,
  id text not null,
  version bigint not null default nextval('chimpbase.document_version'::regclass),
  schema integer not null default 1,
  created_at timestamp with time zone not null default chimpbase.clock(),
  updated_at timestamp with time zone not null default chimpbase.clock(),
  body jsonb not null,
  constraint document_pkey PRIMARY KEY (collection, id),
  constraint document_body_check CHECK ((jsonb_typeof(body) = 'object'::text))
) with (
  fillfactor=80,
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_analyze_scale_factor=0.02,
  autovacuum_vacuum_cost_delay=0
);

create table chimpbase.document_index (
  name text not null,
  collection text not null,
  spec jsonb not null,
  created_at timestamp with time zone not null default chimpbase.clock(),
  constraint document_index_pkey PRIMARY KEY (name)
);

create table chimpbase.entry (
  id bigint not null,
  xid xid8 not null,
  version bigint,
  appended_at timestamp with time zone not null,
  shelf integer not null,
  stream integer not null,
  epoch integer not null,
  hash integer not null,
  key text,
  payload text not null,
  headers text
) partition by list (shelf);
CREATE INDEX entry_stream ON ONLY chimpbase.entry USING btree (stream, id);
CREATE INDEX entry_xid ON ONLY chimpbase.entry USING btree (stream, xid);
comment on column chimpbase.entry.hash is 'Of the key, else of the id: which partition of a consumer takes the entry.';

create table chimpbase.epoch (
  id integer not null generated always as identity,
  system bigint not null,
  began_at timestamp with time zone not null default chimpbase.clock(),
  constraint epoch_pkey PRIMARY KEY (id)
);

create table chimpbase.event (
  id bigint not null generated always as identity,
  topic text not null,
  payload text not null,
  headers text,
  published_at timestamp with time zone not null default chimpbase.clock(),
  constraint event_pkey PRIMARY KEY (id)
);
CREATE INDEX event_published ON chimpbase.event USING btree (published_at);

create table chimpbase.gate (
  queue integer not null,
  settled boolean not null default false,
  tokens double precision,
  refilled_at timestamp with time zone not null default chimpbase.clock(),
  declared jsonb not null default '{}'::jsonb,
  override jsonb not null default '{}'::jsonb,
  constraint gate_pkey PRIMARY KEY (queue),
  constraint gate_queue_fkey FOREIGN KEY (queue) REFERENCES chimpbase.queue(id)
) with (
  fillfactor=50,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=200
);

create table chimpbase.job (
  id bigint not null default nextval('chimpbase.job_id'::regclass),
  sort bigint not null,
  enqueued_at timestamp with time zone not null default chimpbase.clock(),
  claimed_at timestamp with time zone,
  process bigint,
  queue integer not null,
  attempt integer not null default 0,
  uncharged integer not null default 0,
  max_attempts integer,
  priority smallint not null default 0,
  crashes smallint not null default 0,
  key text,
  terms text,
  payload text not null,
  headers text,
  errors jsonb,
  constraint job_pkey PRIMARY KEY (id)
) with (
  fillfactor=50,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=20000,
  autovacuum_vacuum_insert_scale_factor=0,
  autovacuum_vacuum_insert_threshold=100000,
  autovacuum_analyze_scale_factor=0,
  autovacuum_analyze_threshold=50000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX job_ready ON chimpbase.job USING btree (queue, priority, sort);

create table chimpbase.job_after (
  needs bigint not null,
  job bigint not null,
  failed text not null default 'wait'::text,
  constraint job_after_pkey PRIMARY KEY (needs, job),
  constraint job_after_failed_check CHECK ((failed = ANY (ARRAY['wait'::text, 'run'::text, 'cancel'::text])))
) with (
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_vacuum_threshold=5000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX job_after_job ON chimpbase.job_after USING btree (job);

create table chimpbase.job_cancel (
  job bigint not null,
  process bigint not null,
  attempt integer not null,
  reason text,
  requested_at timestamp with time zone not null default chimpbase.clock(),
  constraint job_cancel_pkey PRIMARY KEY (job)
);

create table chimpbase.job_dead (
  id bigint not null,
  died_at timestamp with time zone not null default chimpbase.clock(),
  enqueued_at timestamp with time zone not null,
  queue integer not null,
  attempt integer not null,
  uncharged integer not null default 0,
  max_attempts integer,
  priority smallint not null default 0,
  crashes smallint not null default 0,
  key text,
  terms text,
  reason text not null,
  payload text not null,
  headers text,
  errors jsonb,
  constraint job_dead_pkey PRIMARY KEY (id),
  constraint job_dead_reason_check CHECK ((reason = ANY (ARRAY['exhausted'::text, 'hopeless'::text, 'crashed'::text, 'rejected'::text, 'unreadable'::text, 'expired'::text])))
);
CREATE INDEX job_dead_died ON chimpbase.job_dead USING btree (died_at, id);
CREATE INDEX job_dead_queue ON chimpbase.job_dead USING btree (queue, died_at);
CREATE TRIGGER tell_dead AFTER INSERT ON chimpbase.job_dead REFERENCING NEW TABLE AS buried FOR EACH STATEMENT EXECUTE FUNCTION chimpbase.tell_dead();

create table chimpbase.job_done (
  id bigint not null,
  finished_at timestamp with time zone not null,
  enqueued_at timestamp with time zone not null,
  claimed_at timestamp with time zone,
  process bigint,
  queue integer not null,
  attempt integer not null,
  crashes smallint not null,
  key text,
  outcome text not null,
  payload text not null,
  result text,
  headers text,
  errors jsonb
) partition by range (finished_at);
CREATE INDEX job_done_id ON ONLY chimpbase.job_done USING btree (id);

create table chimpbase.job_done_default partition of chimpbase.job_done default;

create table chimpbase.job_key (
  queue integer not null,
  key text not null,
  open_at timestamp with time zone,
  is_full boolean not null default false,
  tokens double precision,
  refilled_at timestamp with time zone not null,
  constraint job_key_pkey PRIMARY KEY (queue, key)
) with (
  fillfactor=70,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=5000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX job_key_full ON chimpbase.job_key USING btree (queue) WHERE is_full;
CREATE INDEX job_key_open ON chimpbase.job_key USING btree (queue, open_at) WHERE (open_at IS NOT NULL);

create table chimpbase.job_later (
  id bigint not null,
  due_at timestamp with time zone not null,
  enqueued_at timestamp with time zone not null,
  queue integer not null,
  attempt integer not null default 0,
  uncharged integer not null default 0,
  max_attempts integer,
  priority smallint not null default 0,
  crashes smallint not null default 0,
  key text,
  terms text,
  payload text not null,
  headers text,
  errors jsonb,
  constraint job_later_pkey PRIMARY KEY (id)
) with (
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=20000,
  autovacuum_analyze_scale_factor=0,
  autovacuum_analyze_threshold=50000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX job_later_due ON chimpbase.job_later USING btree (due_at);
CREATE INDEX job_later_key ON chimpbase.job_later USING btree (queue, key) WHERE ((key IS NOT NULL) AND ((attempt > uncharged) OR (errors IS NOT NULL)));
CREATE INDEX job_later_struck ON chimpbase.job_later USING btree (id) WHERE (terms ~~ '%"struck": true%'::text);

create table chimpbase.job_progress (
  job bigint not null,
  attempt integer not null,
  fraction double precision not null,
  note text,
  at timestamp with time zone not null,
  constraint job_progress_pkey PRIMARY KEY (job)
) with (
  fillfactor=50,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=5000
);

create table chimpbase.job_unique (
  queue integer not null,
  name text not null,
  job bigint not null,
  until timestamp with time zone,
  digest text,
  constraint job_unique_pkey PRIMARY KEY (queue, name)
) with (
  fillfactor=70,
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_vacuum_threshold=5000,
  autovacuum_vacuum_cost_delay=0
);

create table chimpbase.job_wait (
  id bigint not null,
  enqueued_at timestamp with time zone not null,
  queue integer not null,
  attempt integer not null default 0,
  uncharged integer not null default 0,
  max_attempts integer,
  priority smallint not null default 0,
  crashes smallint not null default 0,
  key text not null default ''::text,
  terms text,
  payload text not null,
  headers text,
  errors jsonb,
  constraint job_wait_pkey PRIMARY KEY (id)
) with (
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=20000,
  autovacuum_vacuum_insert_scale_factor=0,
  autovacuum_vacuum_insert_threshold=100000,
  autovacuum_analyze_scale_factor=0,
  autovacuum_analyze_threshold=50000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX job_wait_key ON chimpbase.job_wait USING btree (queue, key, priority, id);
CREATE INDEX job_wait_line ON chimpbase.job_wait USING btree (((queue + 0)), priority, id);

create table chimpbase.key_news (
  queue integer not null,
  key text not null
) with (
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=5000,
  autovacuum_vacuum_insert_scale_factor=0,
  autovacuum_vacuum_insert_threshold=100000,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX key_news_queue ON chimpbase.key_news USING btree (queue);

create table chimpbase.kv (
  cached boolean not null default false,
  namespace text not null default ''::text,
  key text not null,
  version bigint not null default nextval('chimpbase.kv_version'::regclass),
  expires_at timestamp with time zone,
  value text not null,
  constraint kv_pkey PRIMARY KEY (cached, namespace, key)
) partition by list (cached);

create table chimpbase.migration (
  scope text not null,
  number integer not null,
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone not null default now(),
  constraint migration_pkey PRIMARY KEY (scope, number)
);

create table chimpbase.occurrence (
  schedule text not null,
  due_at timestamp with time zone not null,
  job bigint,
  fired_at timestamp with time zone not null default chimpbase.clock(),
  state text not null default 'fired'::text,
  constraint occurrence_pkey PRIMARY KEY (schedule, due_at),
  constraint occurrence_check CHECK (((job IS NULL) = (state <> 'fired'::text))),
  constraint occurrence_state_check CHECK ((state = ANY (ARRAY['fired'::text, 'waiting'::text, 'skipped'::text])))
) with (
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX occurrence_fired ON chimpbase.occurrence USING btree (fired_at);
CREATE INDEX occurrence_waiting ON chimpbase.occurrence USING btree (schedule, due_at) WHERE (state = 'waiting'::text);

create table chimpbase.process (
  id bigint not null generated always as identity,
  app text not null,
  host text not null,
  pid integer not null,
  version text not null,
  lease interval not null,
  queues integer[] not null default '{}'::integer[],
  started_at timestamp with time zone not null default chimpbase.clock(),
  beat_at timestamp with time zone not null default chimpbase.clock(),
  dead_at timestamp with time zone,
  constraint process_pkey PRIMARY KEY (id)
) with (
  fillfactor=50,
  autovacuum_vacuum_scale_factor=0,
  autovacuum_vacuum_threshold=200
);

create table chimpbase.queue (
  id integer not null generated always as identity,
  name text not null,
  kind text not null default 'job'::text,
  max_attempts integer not null default 10,
  max_crashes integer not null default 3,
  retention interval default '1 day'::interval,
  paused_at timestamp with time zone,
  created_at timestamp with time zone not null default chimpbase.clock(),
  paused_by text,
  pause_reason text,
  dead_queue integer,
  struck boolean not null default false,
  fingerprint text,
  constraint queue_pkey PRIMARY KEY (id),
  constraint queue_name_key UNIQUE (name),
  constraint queue_kind_check CHECK ((kind = ANY (ARRAY['job'::text, 'delivery'::text, 'occurrence'::text, 'activation'::text]))),
  constraint queue_max_attempts_check CHECK ((max_attempts > 0)),
  constraint queue_max_crashes_check CHECK ((max_crashes > 0))
);
comment on column chimpbase.queue.retention is 'How long finished jobs are kept; null keeps none.';

create table chimpbase.reply (
  id text not null,
  run bigint not null,
  result text,
  error text,
  replied_at timestamp with time zone not null default chimpbase.clock(),
  constraint reply_pkey PRIMARY KEY (id)
);
CREATE INDEX reply_run ON chimpbase.reply USING btree (run);

create table chimpbase.run (
  number bigint not null generated always as identity,
  id text not null,
  workflow text not null,
  version integer not null,
  queue integer not null,
  job bigint not null,
  state text not null default 'running'::text,
  woken boolean not null default false,
  waits text[],
  wake_at timestamp with time zone,
  paused_at timestamp with time zone,
  cancel_reason text,
  parent bigint,
  on_parent_close text,
  round integer not null default 1,
  seed text,
  code text,
  input text not null,
  output text,
  error text,
  view text,
  attributes jsonb,
  headers text,
  started_at timestamp with time zone not null default chimpbase.clock(),
  finished_at timestamp with time zone,
  constraint run_pkey PRIMARY KEY (number),
  constraint run_id_key UNIQUE (id),
  constraint run_on_parent_close_check CHECK ((on_parent_close = ANY (ARRAY['cancel'::text, 'abandon'::text]))),
  constraint run_state_check CHECK ((state = ANY (ARRAY['running'::text, 'sleeping'::text, 'waiting'::text, 'paused'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'blocked'::text])))
) with (
  fillfactor=60,
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX run_attributes ON chimpbase.run USING gin (attributes jsonb_path_ops) WHERE (attributes IS NOT NULL);
CREATE INDEX run_parent ON chimpbase.run USING btree (parent) WHERE (parent IS NOT NULL);

create table chimpbase.schedule (
  name text not null,
  expression text not null,
  tz text not null,
  misfire text not null default 'last'::text,
  queue integer not null,
  next_at timestamp with time zone not null,
  paused_at timestamp with time zone,
  created_at timestamp with time zone not null default chimpbase.clock(),
  declared boolean not null default true,
  payload text,
  max_missed integer not null default 100,
  overlap text not null default 'allow'::text,
  jitter interval not null default '00:00:00'::interval,
  waiting boolean not null default false,
  last_at timestamp with time zone,
  last_job bigint,
  constraint schedule_pkey PRIMARY KEY (name),
  constraint schedule_queue_fkey FOREIGN KEY (queue) REFERENCES chimpbase.queue(id),
  constraint schedule_jitter_check CHECK ((jitter >= '00:00:00'::interval)),
  constraint schedule_max_missed_check CHECK (((max_missed >= 1) AND (max_missed <= 10000))),
  constraint schedule_misfire_check CHECK ((misfire = ANY (ARRAY['skip'::text, 'last'::text, 'all'::text]))),
  constraint schedule_overlap_check CHECK ((overlap = ANY (ARRAY['allow'::text, 'skip'::text, 'queue'::text, 'cancel_previous'::text])))
) with (
  fillfactor=70,
  autovacuum_vacuum_scale_factor=0.02,
  autovacuum_vacuum_cost_delay=0
);
CREATE INDEX schedule_due ON chimpbase.schedule USING btree (queue, next_at) WHERE (paused_at IS NULL);
CREATE INDEX schedule_waiting ON chimpbase.schedule USING btree (queue) WHERE (waiting AND (paused_at IS NULL));
comment on column chimpbase.schedule.declared is 'Whether code declares it; otherwise it was made at run time.';
comment on column chimpbase.schedule.waiting is 'Whether occurrences wait for the job of the one before to end.';
comment on column chimpbase.schedule.last_job is 'The job of the occurrence that was fired last, for overlap.';

create table chimpbase.signal (
  id bigint not null generated always as identity,
  run bigint not null,
  name text not null,
  payload text not null,
  sent_at timestamp with time zone not null default chimpbase.clock(),
  constraint signal_pkey PRIMARY KEY (id)
);
CREATE INDEX signal_run ON chimpbase.signal USING btree (run, name, id);

create table chimpbase.signal_key (
  run bigint not null,
  key text not null,
  constraint signal_key_pkey PRIMARY KEY (run, key)
);

create table chimpbase.step (
  run bigint not null,
  key text not null,
  seq integer not null,
  kind text not null,
  attempt integer not null default 1,
  digest bigint,
  started_at timestamp with time zone not null,
  finished_at timestamp with time zone not null default chimpbase.clock(),
  detail text,
  result text,
  error text,
  constraint step_pkey PRIMARY KEY (run, key),
  constraint step_kind_check CHECK ((kind = ANY (ARRAY['step'::text, 'retry'::text, 'sleep'::text, 'wait'::text, 'child'::text, 'callback'::text, 'update'::text, 'patch'::text, 'emit'::text, 'cancelled'::text])))
);

create table chimpbase.stream (
  id integer not null generated always as identity,
  name text not null,
  shelf integer not null default 0,
  version bigint,
  horizon bigint not null default 0,
  retention interval,
  max_bytes bigint,
  created_at timestamp with time zone not null default chimpbase.clock(),
  constraint stream_pkey PRIMARY KEY (id),
  constraint stream_name_key UNIQUE (name)
) with (
  fillfactor=70
);

create table chimpbase.strike (
  id bigint not null generated always as identity,
  queue integer not null,
  filter jsonb not null,
  reason text,
  created_by text,
  created_at timestamp with time zone not null default chimpbase.clock(),
  constraint strike_pkey PRIMARY KEY (id)
);
CREATE INDEX strike_queue ON chimpbase.strike USING btree (queue);

create table chimpbase.subscription (
  name text not null,
  topic text not null,
  queue integer not null,
  created_at timestamp with time zone not null default chimpbase.clock(),
  matcher text,
  conditions jsonb,
  key_path text[],
  constraint subscription_pkey PRIMARY KEY (name),
  constraint subscription_queue_fkey FOREIGN KEY (queue) REFERENCES chimpbase.queue(id)
);
CREATE INDEX subscription_matcher ON chimpbase.subscription USING btree (name) WHERE (matcher IS NOT NULL);
CREATE INDEX subscription_topic ON chimpbase.subscription USING btree (topic);

create table chimpbase.workflow (
  name text not null,
  version integer not null,
  queue integer not null,
  constraint workflow_pkey PRIMARY KEY (name, version),
  constraint workflow_queue_fkey FOREIGN KEY (queue) REFERENCES chimpbase.queue(id),
  constraint workflow_version_check CHECK ((version > 0))
);

create table chimpbase.workflow_code (
  hash text not null,
  names text not null,
  constraint workflow_code_pkey PRIMARY KEY (hash)
);

CREATE OR REPLACE FUNCTION chimpbase.admit(queue integer, process bigint, demand integer, suspects boolean, OUT jobs chimpbase.job[], OUT more boolean, OUT opens_s double precision)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.append(stream text, payload jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  appended record;
  expected bigint := (options ->> 'expected_version')::bigint;
begin
  perform chimpbase.check_options(options, array['key', 'expected_version', 'headers']);
  if stream is null or payload is null or stream !~ '^[A-Za-z0-9_.:/-]{1,128}$' then
    raise exception using errcode = 'CB002', message = 'append takes the name of a stream and a payload';
  end if;
  if octet_length(options ->> 'key') > 512 then
    raise exception using errcode = 'CB002', message = 'a key has at most 512 bytes';
  end if;
  select * into appended
  from chimpbase.append_entries(
    stream, array[payload::text], array[options ->> 'key'], options ->> 'headers', expected);
  if appended.ids is null then
    raise exception using errcode = 'CB006', detail = appended.at_version,
      message = format('stream %L is at version %s, not %s', stream, appended.at_version, expected);
  end if;
  return appended.ids[1];
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.append_entries(stream text, payloads text[], keys text[], headers text, expected bigint, OUT ids bigint[], OUT number integer, OUT at_version bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  head chimpbase.stream;
  era int := chimpbase.current_epoch();
begin
  select s.* into head from chimpbase.stream s where s.name = append_entries.stream;
  if head.id is null then
    insert into chimpbase.stream (name) values (append_entries.stream) on conflict (name) do nothing;
    select s.* into head from chimpbase.stream s where s.name = append_entries.stream;
  end if;
  number := head.id;
  if expected is not null or head.version is not null then
    select s.* into head from chimpbase.stream s where s.id = number for no key update;
    at_version := coalesce(head.version, (
      select count(*) from chimpbase.entry e where e.stream = number and e.shelf = any (array[0, head.shelf])));
    if expected <> at_version then
      return;
    end if;
    update chimpbase.stream s set version = at_version + cardinality(payloads) where s.id = number;
  end if;
  -- the transaction gets its number before its entries get theirs: readers rely on that order
  perform pg_current_xact_id();
  select array_agg(nextval('chimpbase.entry_id') order by n) into ids from generate_series(1, cardinality(payloads)) n;
  insert into chimpbase.entry (id, xid, version, appended_at, shelf, stream, epoch, hash, key, payload, headers)
  select new.id, pg_current_xact_id(), at_version + new.n, chimpbase.clock(), head.shelf, number, era,
    case when new.key is null then new.id % 268435456 else ('x' || left(md5(new.key), 7))::bit(28)::int end,
    new.key, new.payload, append_entries.headers
  from unnest(ids, payloads, keys) with ordinality as new (id, payload, key, n);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.as_json(text text)
 RETURNS json
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
  return text::json;
exception when others then
  return to_json(text);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.as_jsonb(text text)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
  return text::jsonb;
exception when others then
  return to_jsonb(text);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.ask_to_cancel(run chimpbase.run, reason text)
 RETURNS integer[]
 LANGUAGE plpgsql
AS $function$
begin
  if run.state = 'blocked' then
    perform chimpbase.drop_activation(run.job);
    return chimpbase.close_run(run, 'cancelled', null, reason);
  end if;
  update chimpbase.run r set cancel_reason = coalesce(r.cancel_reason, reason), paused_at = null
  where r.number = ask_to_cancel.run.number;
  return array_remove(array[chimpbase.wake_run(run.number)], null);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.broadcast(topic text, payload jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  perform chimpbase.check_options(options, array['headers']);
  if topic is null or payload is null or topic !~ '^[A-Za-z0-9_.:/-]{1,128}$' then
    raise exception using errcode = 'CB002', message = 'broadcast takes a topic and a payload';
  end if;
  insert into chimpbase.broadcast (topic, payload, headers)
  values (broadcast.topic, broadcast.payload::text, options ->> 'headers');
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.cancel(job bigint, options jsonb DEFAULT '{}'::jsonb)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.cancel_job(job bigint, reason text, OUT outcome text, OUT queue integer)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.cancel_record(attempt integer, reason text)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select jsonb_build_object('attempt', attempt, 'error', 'Cancelled', 'message', coalesce(reason, 'no reason given'))
$function$;

CREATE OR REPLACE FUNCTION chimpbase.cancel_run(id text, reason text, force boolean, OUT queues integer[], OUT number bigint, OUT refused text, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run := chimpbase.lock_run(id);
begin
  if run.number is null then
    refused := 'CB005';
  elsif run.finished_at is not null then
    refused := 'CB004';
    state := run.state;
  else
    number := run.number;
    if force then
      perform chimpbase.drop_activation(run.job);
      queues := chimpbase.close_run(run, 'cancelled', null, reason);
    else
      queues := chimpbase.ask_to_cancel(run, reason);
    end if;
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.change(body jsonb, changes jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
declare
  one jsonb;
  path text[];
  value jsonb;
  old jsonb;
  total numeric;
begin
  for one in select * from jsonb_array_elements(changes) loop
    path := array(select jsonb_array_elements_text(one -> 1));
    value := one -> 2;
    old := body #> path;
    case one ->> 0
      when 'merge' then
        body := body || value;
      when 'set' then
        body := chimpbase.put_at(body, path, value);
      when 'unset' then
        body := body #- path;
      when 'inc' then
        if old is not null and jsonb_typeof(old) <> 'number' then
          raise exception using errcode = 'CB020', message = format('inc: a %s is no number', jsonb_typeof(old));
        end if;
        total := coalesce(old::numeric, 0) + value::numeric;
        if abs(total) > 9223372036854775807 and scale(total) = 0 and scale(old::numeric) = 0 then
          raise exception using errcode = 'CB020', message = 'inc: the sum does not fit 64 bits';
        end if;
        body := chimpbase.put_at(body, path, to_jsonb(total));
      when 'push' then
        if old is not null and jsonb_typeof(old) <> 'array' then
          raise exception using errcode = 'CB020', message = format('push: a %s is no list', jsonb_typeof(old));
        end if;
        body := chimpbase.put_at(body, path, coalesce(old, '[]') || jsonb_build_array(value));
      when 'pull' then
        if jsonb_typeof(old) = 'array' then
          body := chimpbase.put_at(body, path, coalesce(
            (select jsonb_agg(e order by n) from jsonb_array_elements(old) with ordinality as x (e, n) where e <> value),
            '[]'));
        end if;
      else
        raise exception using errcode = 'CB002', message = format('no change %L', one ->> 0);
    end case;
  end loop;
  return body;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.check_asked(options jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.check_options(options jsonb, known text[])
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.check_unique(rule jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$
  select statement_timestamp()
    + coalesce(nullif(current_setting('chimpbase.clock_shift', true), ''), '0')::interval
$function$;

CREATE OR REPLACE FUNCTION chimpbase.close_batch(job bigint, given_up boolean)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  if given_up then
    delete from chimpbase.job_later l where l.id = close_batch.job;
    delete from chimpbase.job_after a where a.job = close_batch.job;
  else
    perform chimpbase.resolve(array[close_batch.job], array['closed']);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.close_run(run chimpbase.run, state text, output text, error text)
 RETURNS integer[]
 LANGUAGE plpgsql
AS $function$
declare
  above chimpbase.run;
  child chimpbase.run;
  queues int[];
begin
  update chimpbase.run r
  set state = close_run.state, output = close_run.output, error = close_run.error, finished_at = chimpbase.clock(),
      waits = null, wake_at = null, paused_at = null
  where r.number = close_run.run.number;
  if run.parent is not null then
    select r.* into above from chimpbase.run r where r.number = close_run.run.parent;
    if above.finished_at is null then
      queues := queues || chimpbase.put_signal(above, '@child:' || run.id, format(
        '{"state":%s,"output":%s,"error":%s}', to_json(state), coalesce(output, 'null'),
        coalesce(to_json(error)::text, 'null')));
    end if;
  end if;
  for child in
    select r.* from chimpbase.run r
    where r.parent = close_run.run.number and r.on_parent_close = 'cancel' and r.finished_at is null
    order by r.number
    for update
  loop
    queues := queues || chimpbase.ask_to_cancel(child, 'its parent ended as ' || state);
  end loop;
  return array_remove(queues, null);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.committed_snapshot()
 RETURNS pg_snapshot
 LANGUAGE plpgsql
 STABLE
AS $function$
declare
  now pg_snapshot := pg_current_snapshot();
  mine xid8 := pg_current_xact_id_if_assigned();
  others text;
begin
  if mine is null or mine >= pg_snapshot_xmax(now) or not pg_visible_in_snapshot(mine, now) then
    return now;
  end if;
  select string_agg(xid::text, ',' order by xid) into others
  from (select mine as xid union select pg_snapshot_xip(now)) as running;
  return (least(mine, pg_snapshot_xmin(now))::text || ':' || pg_snapshot_xmax(now)::text || ':' || others)::pg_snapshot;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.complete_callback(token text, payload text, OUT queue integer, OUT refused text, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
begin
  select r.* into run from chimpbase.run r
  where r.number = (select c.run from chimpbase.callback c where c.token = complete_callback.token) for update;
  if not found then
    refused := 'CB008';
    return;
  end if;
  update chimpbase.callback c set completed_at = chimpbase.clock()
  where c.token = complete_callback.token and c.completed_at is null;
  if not found then
    return;
  end if;
  if run.finished_at is not null then
    refused := 'CB004';
    state := run.state;
    return;
  end if;
  queue := chimpbase.put_signal(run, '@callback:' || token, payload);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.create_history(day date)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.create_stream_day(stream integer, day date)
 RETURNS void
 LANGUAGE plpgsql
 SET lock_timeout TO '1s'
AS $function$
declare
  shelf text := 'entry_' || stream;
  name text := shelf || '_' || to_char(day, 'YYYYMMDD');
  first timestamptz := day::timestamp at time zone 'UTC';
  next timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  execute format('lock table only chimpbase.%I in access exclusive mode', shelf);
  if to_regclass(format('chimpbase.%I', name)) is not null then
    return;
  end if;
  execute format('create table chimpbase.%I (like chimpbase.%I including all)', name, shelf);
  execute format(
    'with late as (delete from chimpbase.%I where appended_at >= %L and appended_at < %L returning *) '
    'insert into chimpbase.%I select * from late', shelf || '_default', first, next, name);
  execute format(
    'alter table chimpbase.%I attach partition chimpbase.%I for values from (%L) to (%L)', shelf, name, first, next);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.current_epoch()
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  here bigint := (select system_identifier from pg_catalog.pg_control_system());
  last chimpbase.epoch;
begin
  select e.* into last from chimpbase.epoch e order by e.id desc limit 1;
  if last.system = here then
    return last.id;
  end if;
  lock table chimpbase.epoch in share row exclusive mode;
  select e.* into last from chimpbase.epoch e order by e.id desc limit 1;
  if last.system is distinct from here then
    insert into chimpbase.epoch (system) values (here) returning * into last;
  end if;
  return last.id;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.declare_consumer(name text, stream text, wanted integer, start text, since timestamp with time zone, OUT consumer integer, OUT stream_name text, OUT shelf integer, OUT partitions integer)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  number int := chimpbase.retain_stream(stream, null, null);
begin
  insert into chimpbase.consumer (name, stream, partitions) values (declare_consumer.name, number, wanted)
  on conflict do nothing
  returning id into consumer;
  if consumer is not null then
    insert into chimpbase.consumer_slot (consumer, slot, since, prev_epoch, prev, floor)
    select declare_consumer.consumer, n, declare_consumer.since,
      case when start = 'now' then chimpbase.current_epoch() end,
      case when start = 'now' then chimpbase.committed_snapshot() end,
      case when start = 'now' then coalesce((select max(e.id) from chimpbase.entry e where e.stream = number), 0) else 0 end
    from generate_series(0, wanted - 1) n;
  end if;
  select c.id, s.name, s.shelf, c.partitions into consumer, stream_name, shelf, partitions
  from chimpbase.consumer c join chimpbase.stream s on s.id = c.stream
  where c.name = declare_consumer.name;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.declare_subscription(name text, topic text, queue integer, matcher text, conditions jsonb, key_path text[], since timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  update chimpbase.subscription s
  set topic = declare_subscription.topic, matcher = declare_subscription.matcher,
    conditions = declare_subscription.conditions, key_path = declare_subscription.key_path
  where s.name = declare_subscription.name
    and (s.topic, s.matcher, s.conditions, s.key_path) is distinct from (declare_subscription.topic,
      declare_subscription.matcher, declare_subscription.conditions, declare_subscription.key_path);
  if found or exists (select from chimpbase.subscription s where s.name = declare_subscription.name) then
    return;
  end if;
  if since is not null then
    lock table chimpbase.event in share row exclusive mode;
  end if;
  insert into chimpbase.subscription (name, topic, queue, matcher, conditions, key_path)
  values (name, topic, queue, matcher, conditions, key_path)
  on conflict on constraint subscription_pkey do nothing;
  if found and since is not null then
    perform chimpbase.replay(declare_subscription.name, since);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.delivery_key(payload text, path text[])
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case when octet_length(found) > 512 then md5(found) else nullif(found, '') end
  from (select case when path is not null then payload::jsonb #>> path end as found) as key
$function$;

CREATE OR REPLACE FUNCTION chimpbase.drop_activation(job bigint)
 RETURNS void
 LANGUAGE sql
AS $function$
  delete from chimpbase.job j where j.id = drop_activation.job;
  delete from chimpbase.job_later j where j.id = drop_activation.job;
  delete from chimpbase.job_dead j where j.id = drop_activation.job;
$function$;

CREATE OR REPLACE FUNCTION chimpbase.drop_history(day date)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  execute format('drop table if exists chimpbase.%I', 'job_done_' || to_char(day, 'YYYYMMDD'));
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.drop_stream_day(stream integer, day date)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  name text := 'entry_' || stream || '_' || to_char(day, 'YYYYMMDD');
  highest bigint;
begin
  if to_regclass(format('chimpbase.%I', name)) is null then
    return;
  end if;
  execute format('lock table chimpbase.%I in access exclusive mode', name);
  execute format('select max(id) from chimpbase.%I', name) into highest;
  update chimpbase.stream s set horizon = greatest(s.horizon, coalesce(highest, 0)) where s.id = drop_stream_day.stream;
  execute format('drop table chimpbase.%I', name);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.drop_subscription(name text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  owed int;
  found_here bigint;
  dropped bigint := 0;
begin
  lock table chimpbase.event in share row exclusive mode;
  delete from chimpbase.subscription s where s.name = drop_subscription.name returning s.queue into owed;
  if owed is null then
    raise exception using errcode = 'CB008', message = format('no subscription named %L', drop_subscription.name);
  end if;
  delete from chimpbase.job j where j.queue = owed and j.process is null;
  get diagnostics found_here = row_count;
  dropped := dropped + found_here;
  delete from chimpbase.job_wait j where j.queue = owed;
  get diagnostics found_here = row_count;
  dropped := dropped + found_here;
  delete from chimpbase.job_later j where j.queue = owed;
  get diagnostics found_here = row_count;
  dropped := dropped + found_here;
  delete from chimpbase.job_dead j where j.queue = owed;
  get diagnostics found_here = row_count;
  return dropped + found_here;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.duration_option(options jsonb, name text)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select make_interval(secs => chimpbase.number_option(options, name, 0, 315619200))
$function$;

CREATE OR REPLACE FUNCTION chimpbase.end_run(run bigint, job bigint, process bigint, attempt integer, state text, output text, error text, view text, code text, OUT held boolean, OUT queues integer[])
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  known chimpbase.run;
begin
  select * into known from chimpbase.lock_run((select r.id from chimpbase.run r where r.number = end_run.run));
  with gone as (
    delete from chimpbase.job j
    where j.id = end_run.job and j.process = end_run.process and j.attempt = end_run.attempt and j.id = known.job
    returning j.*
  )
  insert into chimpbase.job_done (
    id, finished_at, enqueued_at, claimed_at, process, queue, attempt, key, crashes, outcome, payload, headers, errors)
  select gone.id, chimpbase.clock(), gone.enqueued_at, gone.claimed_at, gone.process, gone.queue, gone.attempt,
    gone.key, gone.crashes, 'completed', gone.payload, gone.headers, gone.errors
  from gone;
  held := found;
  if held then
    update chimpbase.run r set view = coalesce(end_run.view, r.view), code = end_run.code where r.number = known.number;
    queues := chimpbase.close_run(known, state, output, error);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue(queue text, payload jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue_after(queue integer, payloads text[], due timestamp with time zone, priority smallint, max_attempts integer, headers text, key text, terms text, asked jsonb, OUT ids bigint[], OUT refused text, OUT existing bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue_alike(queue integer, payloads text[], due timestamp with time zone, priority smallint, max_attempts integer, headers text, key text, terms text, ids bigint[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  count constant int[] := array[cardinality(payloads)];
begin
  perform chimpbase.enqueue_jobs(
    array_fill(queue, count), payloads, '{}', array_fill(due, count), array_fill(priority, count),
    array_fill(max_attempts, count), array_fill(headers, count), array_fill(key, count), array_fill(terms, count), ids);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue_jobs(queues integer[], payloads text[], delays interval[], dues timestamp with time zone[], priorities smallint[], max_attempts integer[], headers text[], keys text[], terms text[], ids bigint[] DEFAULT NULL::bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue_unique(queue integer, payloads text[], names text[], rule jsonb, due timestamp with time zone, priority smallint, max_attempts integer, headers text, key text, terms text, OUT ids bigint[], OUT refused text, OUT existing bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.enqueue_with(queue integer, payloads text[], delay interval, run_at timestamp with time zone, priority smallint, max_attempts integer, headers text, key text, terms text, asked jsonb, OUT ids bigint[], OUT refused text, OUT existing bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.find_dead(filter jsonb, before_at timestamp with time zone, before_id bigint, oldest_first boolean, most integer)
 RETURNS SETOF chimpbase.job_dead
 LANGUAGE plpgsql
 STABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.fork_run(id text, step text, fork text, OUT queue integer, OUT refused text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
  since int;
  activation bigint := nextval('chimpbase.job_id');
  run_number bigint;
begin
  select r.* into run from chimpbase.run r where r.id = fork_run.id;
  if not found then
    refused := 'CB005';
    return;
  end if;
  select s.seq into since from chimpbase.step s where s.run = run.number and s.key = fork_run.step;
  if not found then
    refused := 'CB008';
    return;
  end if;
  insert into chimpbase.run (id, workflow, version, queue, job, input, headers, attributes, seed, round)
  values (fork, run.workflow, run.version, run.queue, activation, run.input, run.headers, run.attributes,
    coalesce(run.seed, run.id), run.round)
  on conflict on constraint run_id_key do nothing
  returning number into run_number;
  if not found then
    refused := 'CB003';
    return;
  end if;
  insert into chimpbase.step (run, key, seq, kind, attempt, digest, started_at, finished_at, detail, result, error)
  select run_number, s.key, s.seq, s.kind, s.attempt, s.digest, s.started_at, s.finished_at, s.detail, s.result, s.error
  from chimpbase.step s where s.run = run.number and s.seq < since;
  insert into chimpbase.job (id, sort, queue, payload, headers)
  values (activation, activation, run.queue, run_number::text, run.headers);
  queue := run.queue;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.gate_opens_at(gate chimpbase.gate)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$
  select gate.refilled_at + make_interval(secs =>
    greatest(0, 1 - coalesce(gate.tokens, 1)) * (rate ->> 'per')::float8 / (rate ->> 'limit')::float8)
  from (select chimpbase.limits_of(gate) -> 'rate' as rate) as limits
$function$;

CREATE OR REPLACE FUNCTION chimpbase.gather_at_gate(queue integer, moment timestamp with time zone, strays boolean)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.hold_needs(ids bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
AS $function$
declare
  held bigint[] := '{}';
begin
  held := held || array(select id from chimpbase.job where id = any (ids) order by id for key share);
  held := held || array(select id from chimpbase.job_later where id = any (ids) order by id for key share);
  held := held || array(select id from chimpbase.job_wait where id = any (ids) order by id for key share);
  return held || array(select id from chimpbase.job_dead where id = any (ids) order by id for key share);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.hold_waiting(ids bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.idle_slots(consumers integer[], me bigint, running integer[])
 RETURNS TABLE(consumer integer, slot integer)
 LANGUAGE sql
 STABLE
AS $function$
  select c.id, s.slot
  from chimpbase.consumer c
  join chimpbase.stream st on st.id = c.stream
  join chimpbase.consumer_slot s on s.consumer = c.id
  where c.id = any (consumers)
    and c.paused_at is null
    and s.blocked_at is null
    and (s.retry_at is null or s.retry_at <= chimpbase.clock())
    and chimpbase.is_free(s.process, me, s.slot = any (running))
    and (s.cur is not null or s.attempt > 0
      or exists (
        select
        from chimpbase.consumer_dead d
        where d.consumer = c.id and d.slot = s.slot and d.redriven_at is not null
      )
      or chimpbase.is_behind(c.stream, st.shelf, s.prev_epoch, s.prev, s.floor))
$function$;

CREATE OR REPLACE FUNCTION chimpbase.instant_option(options jsonb, name text)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 STABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.is_behind(stream integer, shelf integer, prev_epoch integer, prev pg_snapshot, floor bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if exists (
    select
    from chimpbase.entry e
    where e.stream = is_behind.stream and e.shelf = any (array[0, is_behind.shelf])
      and e.id > is_behind.floor
      and (is_behind.prev is null or e.epoch > is_behind.prev_epoch
        or (e.epoch = is_behind.prev_epoch and not pg_visible_in_snapshot(e.xid, is_behind.prev)))
  ) then
    return true;
  end if;
  return is_behind.prev is not null and (exists (
    select
    from chimpbase.entry e
    where e.stream = is_behind.stream and e.shelf = any (array[0, is_behind.shelf])
      and e.xid = any (array(select pg_snapshot_xip(is_behind.prev)))
      and e.id <= is_behind.floor and e.epoch = is_behind.prev_epoch
  ) or exists (
    select
    from chimpbase.entry e
    where e.stream = is_behind.stream and e.shelf = any (array[0, is_behind.shelf])
      and e.xid >= pg_snapshot_xmax(is_behind.prev)
      and e.id <= is_behind.floor and e.epoch = is_behind.prev_epoch
  ));
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.is_free(holder bigint, me bigint, running boolean)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select holder is null or (holder = me and not running)
    or not exists (select from chimpbase.process p where p.id = holder and p.dead_at is null)
$function$;

CREATE OR REPLACE FUNCTION chimpbase.is_struck(queue integer, payload text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select exists (
    select 1 from chimpbase.strike s
    where s.queue = is_struck.queue and chimpbase.as_jsonb(is_struck.payload) @> s.filter)
$function$;

CREATE OR REPLACE FUNCTION chimpbase.job_state(job bigint)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select coalesce(
    (select case when j.process is null then 'waiting' else 'running' end from chimpbase.job j where j.id = job_state.job),
    (select 'waiting' from chimpbase.job_later l where l.id = job_state.job),
    (select 'waiting' from chimpbase.job_wait w where w.id = job_state.job),
    (select 'dead' from chimpbase.job_dead d where d.id = job_state.job),
    (select h.outcome from chimpbase.job_done h where h.id = job_state.job limit 1))
$function$;

CREATE OR REPLACE FUNCTION chimpbase.job_terms(options jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.key_option(options jsonb, name text)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.lift_strike(strike bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.limits_of(gate chimpbase.gate)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select jsonb_strip_nulls(gate.declared || gate.override)
$function$;

CREATE OR REPLACE FUNCTION chimpbase.lock_run(id text)
 RETURNS chimpbase.run
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
begin
  perform 1 from chimpbase.run p
  where p.number = (select r.parent from chimpbase.run r where r.id = lock_run.id) for update;
  select r.* into run from chimpbase.run r where r.id = lock_run.id for update;
  return run;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.meets(payload jsonb, conditions jsonb)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select conditions is null or not exists (
    select
    from jsonb_array_elements(conditions) as condition (asked)
    cross join lateral (
      select payload #> array(select jsonb_array_elements_text(asked -> 'path')) as found, asked -> 'value' as wanted
    ) as one
    where not coalesce(case asked ->> 'op'
      when 'exists' then (found is not null) = (wanted = 'true'::jsonb)
      when 'eq' then found = wanted
      when 'ne' then found is distinct from wanted
      when 'in' then exists (select from jsonb_array_elements(wanted) as member (item) where item = found)
      else jsonb_typeof(found) = jsonb_typeof(wanted) and case
        when jsonb_typeof(found) = 'number' then case asked ->> 'op'
          when 'gt' then (found #>> '{}')::numeric > (wanted #>> '{}')::numeric
          when 'gte' then (found #>> '{}')::numeric >= (wanted #>> '{}')::numeric
          when 'lt' then (found #>> '{}')::numeric < (wanted #>> '{}')::numeric
          when 'lte' then (found #>> '{}')::numeric <= (wanted #>> '{}')::numeric end
        when jsonb_typeof(found) = 'string' then case asked ->> 'op'
          when 'gt' then (found #>> '{}') collate "C" > (wanted #>> '{}')
          when 'gte' then (found #>> '{}') collate "C" >= (wanted #>> '{}')
          when 'lt' then (found #>> '{}') collate "C" < (wanted #>> '{}')
          when 'lte' then (found #>> '{}') collate "C" <= (wanted #>> '{}') end
        else false end
      end, false)
  )
$function$;

CREATE OR REPLACE FUNCTION chimpbase.number_of(value jsonb)
 RETURNS numeric
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case jsonb_typeof(value) when 'number' then value::numeric when 'boolean' then value::boolean::int else 0 end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.number_option(options jsonb, name text, low double precision, high double precision)
 RETURNS double precision
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.occurrence_headers(schedule text)
 RETURNS text
 LANGUAGE sql
AS $function$
  select json_build_object('trace', replace(gen_random_uuid()::text, '-', ''), 'cause', 'cron:' || schedule)::text
$function$;

CREATE OR REPLACE FUNCTION chimpbase.occurrence_job(kind text, schedule text, due_at timestamp with time zone, payload text)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select case
    when kind = 'occurrence' then
      json_build_object('schedule', schedule, 'due_at', due_at, 'payload', payload::json)::text
    else coalesce(payload, 'null')
  end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.pass_by_turn(gate chimpbase.gate, room integer, process bigint, moment timestamp with time zone, max_crashes integer, suspects boolean, INOUT busy jsonb, OUT passed chimpbase.job[])
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.pass_gate(ids bigint[], process bigint, moment timestamp with time zone, max_crashes integer, suspects boolean)
 RETURNS chimpbase.job[]
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.pause_run(id text, pause boolean, OUT queue integer, OUT number bigint, OUT refused text, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
begin
  select r.* into run from chimpbase.run r where r.id = pause_run.id for update;
  if not found then
    refused := 'CB005';
    return;
  end if;
  number := run.number;
  if run.finished_at is not null or run.state = 'blocked' then
    refused := 'CB004';
    state := run.state;
  elsif pause and run.paused_at is null then
    update chimpbase.job_later l set due_at = 'infinity' where l.id = run.job;
    update chimpbase.run r
    set paused_at = chimpbase.clock(),
        state = case when found then 'paused' else r.state end,
        woken = r.woken or exists (
          select from chimpbase.signal s where s.run = r.number and s.name = any (r.waits))
    where r.number = run.number;
  elsif not pause and run.paused_at is not null then
    update chimpbase.run r set paused_at = null, error = null where r.number = run.number;
    queue := chimpbase.wake_run(run.number);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.pick(body jsonb, paths jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE COST 1000
AS $function$
declare
  picked jsonb := '{}';
  one jsonb;
  path text[];
  deep int;
begin
  for one in select * from jsonb_array_elements(paths) loop
    path := array(select jsonb_array_elements_text(one));
    if body #> path is not null then
      -- a list on the way is taken whole: its elements have no place without it
      for deep in 1 .. cardinality(path) loop
        if deep = cardinality(path) or jsonb_typeof(body #> path[1:deep]) = 'array' then
          picked := chimpbase.put_at(picked, path[1:deep], body #> path[1:deep]);
          exit;
        end if;
      end loop;
    end if;
  end loop;
  return picked;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.publish(topic text, payload jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
begin
  perform chimpbase.check_options(options, array['headers']);
  if topic is null or payload is null or topic !~ '^[A-Za-z0-9_.:/-]{1,128}$' then
    raise exception using errcode = 'CB002', message = 'publish takes a topic and a payload';
  end if;
  return (chimpbase.publish_event(topic, payload::text, options ->> 'headers')).event;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.publish_event(topic text, payload text, headers text, OUT event bigint, OUT queues integer[])
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.put_at(target jsonb, path text[], value jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
declare
  inner_value jsonb;
begin
  if cardinality(path) = 0 then
    return value;
  end if;
  if target is null then
    target := '{}';
  end if;
  if jsonb_typeof(target) not in ('object', 'array') then
    raise exception using errcode = 'CB020',
      message = format('a %s has no member %L', jsonb_typeof(target), path[1]);
  end if;
  inner_value := target #> path[1:1];
  if jsonb_typeof(target) = 'array' and inner_value is null then
    raise exception using errcode = 'CB020', message = format('the list has no element %L', path[1]);
  end if;
  return jsonb_set(target, path[1:1], chimpbase.put_at(inner_value, path[2:], value), true);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.put_signal(run chimpbase.run, name text, payload text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
begin
  insert into chimpbase.signal (run, name, payload) values (put_signal.run.number, put_signal.name, put_signal.payload);
  if run.paused_at is null and run.waits is not null and put_signal.name = any (run.waits) then
    return chimpbase.wake_run(run.number);
  end if;
  update chimpbase.run r set woken = true where r.number = put_signal.run.number and not r.woken;
  return null;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.put_strike(queue integer, filter jsonb, reason text, created_by text)
 RETURNS bigint
 LANGUAGE sql
AS $function$
  update chimpbase.queue q set struck = true where q.id = put_strike.queue;
  insert into chimpbase.strike (queue, filter, reason, created_by)
  values (put_strike.queue, put_strike.filter, put_strike.reason, put_strike.created_by)
  returning id;
$function$;

CREATE OR REPLACE FUNCTION chimpbase.rank_of(value jsonb)
 RETURNS smallint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case jsonb_typeof(value)
    when 'boolean' then 1 when 'number' then 2 when 'string' then 3 when 'array' then 4 when 'object' then 5 else -1
  end::smallint
$function$;

CREATE OR REPLACE FUNCTION chimpbase.read_entries(stream integer, shelf integer, prev_epoch integer, prev pg_snapshot, cur_epoch integer, cur pg_snapshot, floor bigint, last bigint, since timestamp with time zone, partitions integer, part integer, max_entries integer)
 RETURNS TABLE(era integer, window_end text, horizon bigint, top bigint, id bigint, version bigint, key text, payload text, appended_at timestamp with time zone, headers text)
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  shelves int[] := array[0, read_entries.shelf];
  late int := 0;
begin
  read_entries.era := coalesce(read_entries.cur_epoch, (select max(e.id) from chimpbase.epoch e));
  read_entries.cur := coalesce(read_entries.cur, chimpbase.committed_snapshot());
  read_entries.top := (
    select e.id
    from chimpbase.entry e
    where e.stream = read_entries.stream and e.shelf = any (shelves) and e.id > read_entries.floor
      and (e.epoch < read_entries.era
        or (e.epoch = read_entries.era and pg_visible_in_snapshot(e.xid, read_entries.cur)))
    order by e.id desc
    limit 1
  );
  if read_entries.prev is not null and read_entries.last < read_entries.floor then
    return query
    select null::int, null::text, null::bigint, null::bigint,
      found.id, found.version, found.key, found.payload, found.appended_at, found.headers
    from (
      select e.*
      from chimpbase.entry e
      where e.stream = read_entries.stream and e.shelf = any (shelves)
        and e.xid = any (array(select pg_snapshot_xip(read_entries.prev)))
      union all
      select e.*
      from chimpbase.entry e
      where e.stream = read_entries.stream and e.shelf = any (shelves)
        and e.xid >= pg_snapshot_xmax(read_entries.prev)
    ) as found
    where found.id > read_entries.last and found.id <= read_entries.floor
      and found.epoch = read_entries.prev_epoch
      and (found.epoch < read_entries.era or pg_visible_in_snapshot(found.xid, read_entries.cur))
      and (read_entries.since is null or found.appended_at >= read_entries.since)
      and found.hash % read_entries.partitions = read_entries.part
    order by found.id
    limit read_entries.max_entries;
    get diagnostics late = row_count;
  end if;
  if late < read_entries.max_entries then
    return query
    select null::int, null::text, null::bigint, null::bigint,
      e.id, e.version, e.key, e.payload, e.appended_at, e.headers
    from chimpbase.entry e
    where e.stream = read_entries.stream and e.shelf = any (shelves)
      and e.id > greatest(read_entries.floor, read_entries.last)
      and (read_entries.prev is null or e.epoch > read_entries.prev_epoch
        or (e.epoch = read_entries.prev_epoch and not pg_visible_in_snapshot(e.xid, read_entries.prev)))
      and (e.epoch < read_entries.era
        or (e.epoch = read_entries.era and pg_visible_in_snapshot(e.xid, read_entries.cur)))
      and (read_entries.since is null or e.appended_at >= read_entries.since)
      and e.hash % read_entries.partitions = read_entries.part
    order by e.id
    limit read_entries.max_entries - late;
  end if;
  read_entries.window_end := read_entries.cur::text;
  -- asked for after the entries: what was dropped before they were read must show
  read_entries.horizon := (select s.horizon from chimpbase.stream s where s.id = read_entries.stream);
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.read_entries_back(stream integer, shelf integer, cur_epoch integer, cur pg_snapshot, before bigint, since timestamp with time zone, max_entries integer)
 RETURNS TABLE(era integer, window_end text, horizon bigint, top bigint, id bigint, version bigint, key text, payload text, appended_at timestamp with time zone, headers text)
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  read_entries_back.era := coalesce(read_entries_back.cur_epoch, (select max(e.id) from chimpbase.epoch e));
  read_entries_back.cur := coalesce(read_entries_back.cur, chimpbase.committed_snapshot());
  return query
  select null::int, null::text, null::bigint, null::bigint,
    e.id, e.version, e.key, e.payload, e.appended_at, e.headers
  from chimpbase.entry e
  where e.stream = read_entries_back.stream and e.shelf = any (array[0, read_entries_back.shelf])
    and e.id < read_entries_back.before
    and (e.epoch < read_entries_back.era
      or (e.epoch = read_entries_back.era and pg_visible_in_snapshot(e.xid, read_entries_back.cur)))
    and (read_entries_back.since is null or e.appended_at >= read_entries_back.since)
  order by e.id desc
  limit read_entries_back.max_entries;
  read_entries_back.window_end := read_entries_back.cur::text;
  read_entries_back.horizon := (select s.horizon from chimpbase.stream s where s.id = read_entries_back.stream);
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.refill(tokens double precision, refilled_at timestamp with time zone, moment timestamp with time zone, speed double precision, burst double precision)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select least(burst, coalesce(tokens, burst) + greatest(0, extract(epoch from moment - refilled_at)::float8) * speed)
$function$;

CREATE OR REPLACE FUNCTION chimpbase.replace_waiting(ids bigint[], payloads text[], due timestamp with time zone, priority smallint, max_attempts integer, headers text, key text, terms text)
 RETURNS bigint[]
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.replay(subscription text, since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  to_whom chimpbase.subscription;
  payloads text[];
  headers text[];
  keys text[];
begin
  select s.* into to_whom from chimpbase.subscription s where s.name = replay.subscription;
  if to_whom.name is null then
    raise exception using errcode = 'CB008', message = format('no subscription named %L', replay.subscription);
  end if;
  select array_agg(e.payload order by e.id), array_agg(chimpbase.delivery_key(e.payload, to_whom.key_path) order by e.id),
    array_agg((coalesce(e.headers::jsonb, '{}')
      || jsonb_build_object('event', e.id, 'topic', e.topic, 'replay', true))::text order by e.id)
  into payloads, keys, headers
  from chimpbase.event e
  where e.published_at >= since
    and (e.topic = to_whom.topic or e.topic ~ to_whom.matcher)
    and (to_whom.conditions is null or chimpbase.meets(e.payload::jsonb, to_whom.conditions));
  if payloads is null then
    return 0;
  end if;
  perform chimpbase.enqueue_jobs(
    array_fill(to_whom.queue, array[cardinality(payloads)]), payloads, '{}', '{}', '{}', '{}', headers, keys, '{}');
  return cardinality(payloads);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.resolve(ended bigint[], outcomes text[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.resolve_missed(since bigint, most integer)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.restart_run(run chimpbase.run)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  activation bigint := nextval('chimpbase.job_id');
begin
  perform chimpbase.drop_activation(run.job);
  insert into chimpbase.job (id, sort, queue, payload, headers)
  values (activation, activation, run.queue, run.number::text, run.headers);
  update chimpbase.run r
  set job = activation, state = 'running', woken = false, waits = null, wake_at = null, paused_at = null,
      cancel_reason = null, output = null, error = null, finished_at = null, code = null
  where r.number = restart_run.run.number;
  return run.queue;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.retain_stream(name text, retention interval, max_bytes bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  head chimpbase.stream;
  shelf text;
begin
  insert into chimpbase.stream (name) values (retain_stream.name) on conflict do nothing;
  select s.* into head from chimpbase.stream s where s.name = retain_stream.name;
  -- a declaration that says nothing of it leaves the retention as another process declared it
  if (retain_stream.retention is null and retain_stream.max_bytes is null)
    or head.retention is not distinct from retain_stream.retention
    and head.max_bytes is not distinct from retain_stream.max_bytes then
    return head.id;
  end if;
  select s.* into head from chimpbase.stream s where s.id = head.id for no key update;
  shelf := 'entry_' || head.id;
  if to_regclass(format('chimpbase.%I', shelf)) is null then
    execute format(
      'create table chimpbase.%I partition of chimpbase.entry for values in (%s) partition by range (appended_at)',
      shelf, head.id);
    execute format('create table chimpbase.%I partition of chimpbase.%I default', shelf || '_default', shelf);
  end if;
  update chimpbase.stream s
  set shelf = s.id, retention = retain_stream.retention, max_bytes = retain_stream.max_bytes
  where s.id = head.id;
  return head.id;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.rewind_run(id text, step text, OUT queue integer, OUT number bigint, OUT refused text, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
  since int;
begin
  select r.* into run from chimpbase.run r where r.id = rewind_run.id for update;
  state := run.state;
  number := run.number;
  if not found then
    refused := 'CB005';
    return;
  elsif step is not null then
    select s.seq into since from chimpbase.step s where s.run = run.number and s.key = rewind_run.step;
    if not found then
      refused := 'CB008';
      return;
    end if;
  elsif run.state = 'failed' then
    select max(s.seq) into since from chimpbase.step s where s.run = run.number and s.error is not null;
  elsif run.state <> 'blocked' then
    refused := 'CB004';
    return;
  end if;
  delete from chimpbase.step s where s.run = run.number and s.seq >= since;
  queue := chimpbase.restart_run(run);
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.send_signal(id text, name text, payload text, dedupe text, OUT queue integer, OUT refused text, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  run chimpbase.run;
begin
  select r.* into run from chimpbase.run r where r.id = send_signal.id for update;
  if not found then
    refused := 'CB005';
  elsif run.finished_at is not null then
    refused := 'CB004';
    state := run.state;
  else
    if dedupe is not null then
      insert into chimpbase.signal_key (run, key) values (run.number, dedupe) on conflict do nothing;
      if not found then
        return;
      end if;
    end if;
    queue := chimpbase.put_signal(run, name, payload);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.settle_cancels(most integer, OUT job bigint, OUT outcome text)
 RETURNS SETOF record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.settle_gate(queue integer, moment timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.settle_job(job bigint, process bigint, attempt integer)
 RETURNS void
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.signal(id text, name text, payload jsonb DEFAULT 'null'::jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  sent record;
begin
  perform chimpbase.check_options(options, array['dedupe']);
  sent := chimpbase.send_signal(id, name, payload::text, options ->> 'dedupe');
  case sent.refused
    when 'CB004' then
      raise exception using errcode = sent.refused,
        message = format('run %L has ended as %s and takes no signals', id, sent.state), detail = sent.state;
    when 'CB005' then
      raise exception using errcode = sent.refused, message = format('no run with id %L', id);
    else null;
  end case;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.start_run(workflow text, version integer, id text, input text, delay interval, headers text, options jsonb, OUT queue integer, OUT run_version integer, OUT existed boolean, OUT queues integer[], OUT refused text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  activation bigint := nextval('chimpbase.job_id');
  due timestamptz := case when start_run.delay > interval '0' then chimpbase.clock() + start_run.delay end;
  urgency smallint := coalesce(chimpbase.whole_option(options, 'priority', -100, 100), 0);
  run_number bigint;
  old chimpbase.run;
begin
  existed := false;
  select w.queue, w.version into queue, run_version from chimpbase.workflow w
  where w.name = start_run.workflow and (start_run.version is null or w.version = start_run.version)
  order by w.version desc limit 1;
  if not found then
    refused := 'CB001';
    return;
  end if;
  if options ->> 'on_conflict' = 'replace' then
    old := chimpbase.lock_run(id);
    if old.number is not null then
      if old.finished_at is null then
        perform chimpbase.drop_activation(old.job);
        queues := chimpbase.close_run(old, 'cancelled', null, 'replaced by another run of the same id');
      end if;
      update chimpbase.run r set id = r.id || '~' || r.number, seed = coalesce(r.seed, r.id) where r.number = old.number;
    end if;
  end if;
  insert into chimpbase.run (
    id, workflow, version, queue, job, input, headers, state, wake_at, parent, on_parent_close, attributes, seed)
  values (start_run.id, start_run.workflow, run_version, queue, activation, start_run.input, start_run.headers,
    case when due is null then 'running' else 'sleeping' end, due,
    (options ->> 'parent')::bigint, options ->> 'on_parent_close', options -> 'attributes', options ->> 'seed')
  on conflict on constraint run_id_key do nothing
  returning number into run_number;
  if not found then
    if options ->> 'on_conflict' = 'use_existing' then
      existed := true;
    else
      refused := 'CB003';
    end if;
    return;
  end if;
  if due is not null then
    insert into chimpbase.job_later (id, due_at, enqueued_at, queue, payload, headers, priority, key)
    values (activation, due, chimpbase.clock(), queue, run_number::text, start_run.headers, urgency, options ->> 'key');
  else
    insert into chimpbase.job (id, sort, queue, payload, headers, priority, key)
    values (activation, activation, queue, run_number::text, start_run.headers, urgency, options ->> 'key');
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.start_workflow(workflow text, input jsonb DEFAULT 'null'::jsonb, options jsonb DEFAULT '{}'::jsonb)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
declare
  run_id text := coalesce(options ->> 'id', gen_random_uuid()::text);
  refused text;
begin
  perform chimpbase.check_options(
    options, array['id', 'version', 'delay', 'headers', 'on_conflict', 'priority', 'key', 'attributes']);
  refused := (chimpbase.start_run(
    workflow, (options ->> 'version')::int, run_id, input::text,
    make_interval(secs => (options ->> 'delay')::double precision), options ->> 'headers',
    options - array['id', 'version', 'delay', 'headers'])).refused;
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.sweep_strikes(span integer, after bigint, OUT moved integer, OUT next bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.tell_dead()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.text_of(value jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case when jsonb_typeof(value) in ('string', 'array', 'object') then value #>> '{}' else '' end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.ungated(queues integer[], process bigint)
 RETURNS integer[]
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.unique_name(rule jsonb, payload jsonb)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION chimpbase.wake_run(number bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  moved int;
begin
  with later as (
    delete from chimpbase.job_later l using chimpbase.run r where r.number = wake_run.number and l.id = r.job returning l.*
  )
  insert into chimpbase.job (
    id, sort, enqueued_at, queue, attempt, uncharged, max_attempts, priority, key, terms, crashes, payload, headers, errors)
  select later.id, nextval('chimpbase.job_id'), later.enqueued_at, later.queue, later.attempt, later.uncharged,
    later.max_attempts, later.priority, later.key, later.terms, later.crashes, later.payload, later.headers, later.errors
  from later
  returning queue into moved;
  if found then
    update chimpbase.run r set state = 'running', waits = null, wake_at = null, woken = false
    where r.number = wake_run.number;
  else
    update chimpbase.run r set woken = true where r.number = wake_run.number;
  end if;
  return moved;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.whole_option(options jsonb, name text, low integer, high integer)
 RETURNS integer
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
declare
  value double precision := chimpbase.number_option(options, name, low, high);
begin
  if value <> trunc(value) then
    raise exception using errcode = 'CB002',
      message = format('option %s must be a whole number from %s to %s', name, low, high);
  end if;
  return value;
end
$function$;

CREATE OR REPLACE FUNCTION chimpbase.with_error(errors jsonb, error jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select (case when jsonb_array_length(errors) >= 10 then errors - 0 else coalesce(errors, '[]') end) || error
$function$;
