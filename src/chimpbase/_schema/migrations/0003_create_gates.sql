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
create index job_wait_line on chimpbase.job_wait (queue, priority, id);
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
