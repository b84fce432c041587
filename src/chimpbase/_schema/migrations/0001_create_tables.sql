-- The tables of the runtime. One family a section; the shelf of the same name in `_store` reads and writes it.
-- Hot tables have no foreign keys, no index on a column that changes, and pages with room for HOT updates.

-- The only clock. Tests shift it through a session setting; nothing else in the program reads a wall clock.
create function chimpbase.clock() returns timestamptz
language sql stable parallel safe
as $$
  select statement_timestamp()
    + coalesce(nullif(current_setting('chimpbase.clock_shift', true), ''), '0')::interval
$$;

-- Queues ---------------------------------------------------------------------------------------------------------------

create table chimpbase.queue (
  id            int generated always as identity primary key,
  name          text not null unique,
  kind          text not null default 'job' check (kind in ('job', 'delivery', 'occurrence', 'activation')),
  max_attempts  int not null default 10 check (max_attempts > 0),
  max_crashes   int not null default 3 check (max_crashes > 0),
  retention     interval default interval '1 day',
  paused_at     timestamptz,
  created_at    timestamptz not null default chimpbase.clock()
);
comment on column chimpbase.queue.retention is 'How long finished jobs are kept; null keeps none.';

-- Jobs -----------------------------------------------------------------------------------------------------------------

create sequence chimpbase.job_id as bigint;

-- A job that is ready (`process` is null) or running (`process` is the one that leased it). `attempt` counts claims and
-- only ever grows, so (id, process, attempt) names one attempt for ever: it is the fence. `uncharged` counts the claims
-- that a clean stop or a snooze took back; attempts used = attempt - uncharged. `sort` is drawn when a job becomes ready.
create table chimpbase.job (
  id            bigint primary key default nextval('chimpbase.job_id'),
  sort          bigint not null,
  enqueued_at   timestamptz not null default chimpbase.clock(),
  claimed_at    timestamptz,
  process       bigint,
  queue         int not null,
  attempt       int not null default 0,
  uncharged     int not null default 0,
  max_attempts  int,
  priority      smallint not null default 0,
  crashes       smallint not null default 0,
  key           text,
  terms         text,
  payload       text not null,
  headers       text,
  errors        jsonb
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  autovacuum_vacuum_cost_delay = 0
);
-- No predicate and no column that a claim changes: a claim is a HOT update.
create index job_ready on chimpbase.job (queue, priority, sort);

-- Jobs that are not due yet: delayed, retrying, snoozed, and the activations of sleeping and waiting runs.
create table chimpbase.job_later (
  id            bigint primary key,
  due_at        timestamptz not null,
  enqueued_at   timestamptz not null,
  queue         int not null,
  attempt       int not null default 0,
  uncharged     int not null default 0,
  max_attempts  int,
  priority      smallint not null default 0,
  crashes       smallint not null default 0,
  key           text,
  terms         text,
  payload       text not null,
  headers       text,
  errors        jsonb
) with (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  autovacuum_vacuum_cost_delay = 0
);
create index job_later_due on chimpbase.job_later (due_at);

-- Dead letters: jobs that nobody will run again by themselves.
create table chimpbase.job_dead (
  id            bigint primary key,
  died_at       timestamptz not null default chimpbase.clock(),
  enqueued_at   timestamptz not null,
  queue         int not null,
  attempt       int not null,
  uncharged     int not null default 0,
  max_attempts  int,
  priority      smallint not null default 0,
  crashes       smallint not null default 0,
  key           text,
  terms         text,
  reason        text not null
                check (reason in ('exhausted', 'hopeless', 'crashed', 'rejected', 'unreadable', 'expired')),
  payload       text not null,
  headers       text,
  errors        jsonb
);
create index job_dead_queue on chimpbase.job_dead (queue, died_at);

-- Finished jobs, in partitions of one day that are dropped whole. The default partition only catches what arrives when
-- nobody made the day's partition in time.
create table chimpbase.job_done (
  id            bigint not null,
  finished_at   timestamptz not null,
  enqueued_at   timestamptz not null,
  claimed_at    timestamptz,
  process       bigint,
  queue         int not null,
  attempt       int not null,
  crashes       smallint not null,
  key           text,
  outcome       text not null,
  payload       text not null,
  result        text,
  headers       text,
  errors        jsonb
) partition by range (finished_at);
create index job_done_id on chimpbase.job_done (id);
create table chimpbase.job_done_default partition of chimpbase.job_done default;

-- Processes ------------------------------------------------------------------------------------------------------------

-- One row a boot. `beat_at` moves every third of the lease; a row older than its lease is taken for dead by whoever
-- notices, and stays dead: the process itself must come back under a new id.
create table chimpbase.process (
  id            bigint generated always as identity primary key,
  app           text not null,
  host          text not null,
  pid           int not null,
  version       text not null,
  lease         interval not null,
  queues        int[] not null default '{}',
  started_at    timestamptz not null default chimpbase.clock(),
  beat_at       timestamptz not null default chimpbase.clock(),
  dead_at       timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Events ---------------------------------------------------------------------------------------------------------------

create table chimpbase.event (
  id            bigint generated always as identity primary key,
  topic         text not null,
  payload       text not null,
  headers       text,
  published_at  timestamptz not null default chimpbase.clock()
);
create index event_published on chimpbase.event (published_at);

-- A durable interest. Every subscription of a topic gets one delivery job for each event published while it stands.
create table chimpbase.subscription (
  name          text primary key,
  topic         text not null,
  queue         int not null references chimpbase.queue (id),
  created_at    timestamptz not null default chimpbase.clock()
);
create index subscription_topic on chimpbase.subscription (topic);

-- Schedules ------------------------------------------------------------------------------------------------------------

create table chimpbase.schedule (
  name          text primary key,
  expression    text not null,
  tz            text not null,
  misfire       text not null default 'last' check (misfire in ('skip', 'last', 'all')),
  queue         int not null references chimpbase.queue (id),
  next_at       timestamptz not null,
  paused_at     timestamptz,
  created_at    timestamptz not null default chimpbase.clock()
);
create index schedule_next on chimpbase.schedule (next_at) where paused_at is null;

-- The exactly-once gate of cron: one row for each (schedule, instant), whoever tries and however often.
create table chimpbase.occurrence (
  schedule      text not null,
  due_at        timestamptz not null,
  job           bigint not null,
  fired_at      timestamptz not null default chimpbase.clock(),
  primary key (schedule, due_at)
);
create index occurrence_fired on chimpbase.occurrence (fired_at);

-- Workflows ------------------------------------------------------------------------------------------------------------

-- What some process can run or could run: the version that a start by name alone takes is the highest one here.
create table chimpbase.workflow (
  name          text not null,
  version       int not null check (version > 0),
  queue         int not null references chimpbase.queue (id),
  primary key (name, version)
);

-- `job` is the run's activation. While the run lives there is exactly one: in `job` when it is active, in `job_later`
-- while it sleeps, waits or is paused (due at infinity when only a message can end the rest), in `job_dead` when blocked.
-- `woken` notes a message that came while the activation was active; the activation serves it before it may suspend.
-- `cancel_reason` is a wish to cancel that the code has not obeyed yet; `seed` is what made-up ids and random numbers
-- come from (the id when null), so that a fork repeats what it copies; `code` is a hash of the code that last ran it;
-- `view` is what the code last showed as its state.
create table chimpbase.run (
  number          bigint generated always as identity primary key,
  id              text not null unique,
  workflow        text not null,
  version         int not null,
  queue           int not null,
  job             bigint not null,
  state           text not null default 'running' check (state in (
                    'running', 'sleeping', 'waiting', 'paused', 'completed', 'failed', 'cancelled', 'blocked')),
  woken           boolean not null default false,
  waits           text[],
  wake_at         timestamptz,
  paused_at       timestamptz,
  cancel_reason   text,
  parent          bigint,
  on_parent_close text check (on_parent_close in ('cancel', 'abandon')),
  round           int not null default 1,
  seed            text,
  code            text,
  input           text not null,
  output          text,
  error           text,
  view            text,
  attributes      jsonb,
  headers         text,
  started_at      timestamptz not null default chimpbase.clock(),
  finished_at     timestamptz
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Neither column changes, so ending a run stays a HOT update.
create index run_parent on chimpbase.run (parent) where parent is not null;
create index run_attributes on chimpbase.run using gin (attributes jsonb_path_ops) where attributes is not null;

-- The memo journal: a row is written once, by whoever finishes the step first, and never changes; only 'retry', the note
-- of a failed attempt that is to be repeated, gives way to what follows. `digest` is a hash of the arguments; `detail`
-- the arguments themselves when they are short, and for a wait the name of what ended it.
create table chimpbase.step (
  run           bigint not null,
  key           text not null,
  seq           int not null,
  kind          text not null check (kind in (
                  'step', 'retry', 'sleep', 'wait', 'child', 'callback', 'update', 'patch', 'emit', 'cancelled')),
  attempt       int not null default 1,
  digest        bigint,
  started_at    timestamptz not null,
  finished_at   timestamptz not null default chimpbase.clock(),
  detail        text,
  result        text,
  error         text,
  primary key (run, key)
);

-- Messages that no wait has consumed yet. Consuming one deletes it and writes the wait's step, in one statement. Names
-- that begin with '@' are the runtime's own: the end of a child, a completed callback, an update.
create table chimpbase.signal (
  id            bigint generated always as identity primary key,
  run           bigint not null,
  name          text not null,
  payload       text not null,
  sent_at       timestamptz not null default chimpbase.clock()
);
create index signal_run on chimpbase.signal (run, name, id);

-- Key-value ------------------------------------------------------------------------------------------------------------

-- A version is never given twice, not even to a pair that was deleted and set again: a compare-and-set cannot be fooled.
-- Those of the cache are only unique and do not grow, because drawing them in order would cost a flush of the log.
create sequence chimpbase.kv_version as bigint;
create sequence chimpbase.kv_cache_version as bigint cache 1000;

-- No index on `expires_at`: a set stays a HOT update. Readers judge expiry themselves; the sweep only frees space.
-- Keys are compared byte for byte, so that a prefix is a range of the primary key.
create table chimpbase.kv (
  cached        boolean not null default false,
  namespace     text collate "C" not null default '',
  key           text collate "C" not null,
  version       bigint not null default nextval('chimpbase.kv_version'),
  expires_at    timestamptz,
  value         text not null,
  primary key (cached, namespace, key)
) partition by list (cached);
create table chimpbase.kv_durable partition of chimpbase.kv for values in (false)
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Emptied by a crash of the server, absent on its replicas, and written without a flush of the log.
create unlogged table chimpbase.kv_cache partition of chimpbase.kv for values in (true)
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
