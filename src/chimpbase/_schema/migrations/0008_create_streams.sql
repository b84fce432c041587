-- Streams, their consumers, and what events need beyond their table.

-- Streams --------------------------------------------------------------------------------------------------------------

-- The numbers of transactions mean something within one cluster only. Whenever the database is found in another one
-- (dumped and restored, or upgraded), a new epoch begins: what earlier epochs wrote is visible as a whole.
create table chimpbase.epoch (
  id            int generated always as identity primary key,
  system        bigint not null,
  began_at      timestamptz not null default chimpbase.clock()
);

-- `version` counts the entries of a stream whose appends name the version they expect; null for the others, whose
-- writers do not wait for each other. `shelf` is 0, where entries stay for ever, or the stream's own id once it has a
-- retention. `horizon` is the highest id that was ever dropped from it.
create table chimpbase.stream (
  id            int generated always as identity primary key,
  name          text not null unique,
  shelf         int not null default 0,
  version       bigint,
  horizon       bigint not null default 0,
  retention     interval,
  max_bytes     bigint,
  created_at    timestamptz not null default chimpbase.clock()
) with (fillfactor = 70);

create sequence chimpbase.entry_id as bigint;

-- Append only. `xid` is the writing transaction: readers compare what two snapshots show, never ids alone. Partitions
-- are dropped whole: one shelf for what stays for ever, and one in days for each stream with a retention.
create table chimpbase.entry (
  id            bigint not null,
  xid           xid8 not null,
  version       bigint,
  appended_at   timestamptz not null,
  shelf         int not null,
  stream        int not null,
  epoch         int not null,
  hash          int not null,
  key           text,
  payload       text not null,
  headers       text
) partition by list (shelf);
create index entry_stream on chimpbase.entry (stream, id);
create index entry_xid on chimpbase.entry (stream, xid);
create table chimpbase.entry_0 partition of chimpbase.entry for values in (0) with (
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000
);
comment on column chimpbase.entry.hash is 'Of the key, else of the id: which partition of a consumer takes the entry.';

-- A durable reader. `policy` says what becomes of an entry that it cannot handle.
create table chimpbase.consumer (
  id            int generated always as identity primary key,
  name          text not null unique,
  stream        int not null,
  partitions    int not null check (partitions between 1 and 1024),
  paused_at     timestamptz,
  created_at    timestamptz not null default chimpbase.clock()
);

-- One partition of a consumer: how far it has read, and who is at it. The window: everything visible in `prev` is behind
-- it, `cur` is being paged through by id. (process, fence) is the right to move it, `attempt` counts since it last moved.
create table chimpbase.consumer_slot (
  consumer      int not null,
  slot          int not null,
  attempt       int not null default 0,
  fence         bigint not null default 0,
  process       bigint,
  taken_at      timestamptz,
  retry_at      timestamptz,
  blocked_at    timestamptz,
  since         timestamptz,
  prev_epoch    int,
  prev          pg_snapshot,
  cur_epoch     int,
  cur           pg_snapshot,
  floor         bigint not null default 0,
  last          bigint not null default 0,
  moved_at      timestamptz,
  error         text,
  primary key (consumer, slot)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Entries that a consumer could not handle and went past, as they were.
create table chimpbase.consumer_dead (
  consumer      int not null,
  entry         bigint not null,
  slot          int not null,
  version       bigint,
  appended_at   timestamptz not null,
  died_at       timestamptz not null default chimpbase.clock(),
  redriven_at   timestamptz,
  key           text,
  payload       text not null,
  headers       text,
  error         text not null,
  primary key (consumer, entry)
);
-- Those that are to be handled once more, by their slot, before anything else.
create index consumer_dead_redriven on chimpbase.consumer_dead (consumer, slot, entry) where redriven_at is not null;

-- The epoch of this cluster; begins a new one when the database has come from another.
create function chimpbase.current_epoch() returns int
language plpgsql
as $$
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
$$;

-- What is committed now. Unlike `pg_current_snapshot`, it counts this transaction itself among those in progress: what it
-- has appended is still to come for everybody.
create function chimpbase.committed_snapshot() returns pg_snapshot
language plpgsql stable
as $$
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
$$;

-- Append entries to a stream, which begins with its first entry; answer their ids in the order given, and the stream.
-- With an `expected` version that is not the stream's, nothing is appended: `ids` is null, `at_version` the one it has.
create function chimpbase.append_entries(
  stream text, payloads text[], keys text[], headers text, expected bigint, out ids bigint[], out number int, out at_version bigint
)
language plpgsql
as $$
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
$$;

-- Append one entry to a stream and return its id, if and only if this transaction commits.
-- options: key (entries of one key are handled in their order), expected_version (CB006 when it is another), headers.
create function chimpbase.append(stream text, payload jsonb, options jsonb default '{}') returns bigint
language plpgsql
as $$
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
$$;

-- Read on in one partition of a stream: the entries that `cur` shows (null: what is committed now) and `prev` does not, by
-- id. The last row has no id: it tells the window's end, the highest id it shows and the highest one ever dropped.
-- What was in progress when `prev` was taken is looked up by transaction: those that `prev` lists, and all from its xmax
-- on, for that is the last one that had ended, not the last one begun. Everything else has an id above the floor.
-- The settings pin the plans: every statement goes along an index, and stops.
create function chimpbase.read_entries(
  stream int, shelf int, prev_epoch int, prev pg_snapshot, cur_epoch int, cur pg_snapshot, floor bigint, last bigint,
  since timestamptz, partitions int, part int, max_entries int
) returns table (
  era int, window_end text, horizon bigint, top bigint,
  id bigint, version bigint, key text, payload text, appended_at timestamptz, headers text
)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
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
$$;

-- Read a stream backward: the entries that `cur` shows below an id, the latest first, and a last row as in `read_entries`.
create function chimpbase.read_entries_back(
  stream int, shelf int, cur_epoch int, cur pg_snapshot, before bigint, since timestamptz, max_entries int
) returns table (
  era int, window_end text, horizon bigint, top bigint,
  id bigint, version bigint, key text, payload text, appended_at timestamptz, headers text
)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
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
$$;

-- Whether a reader at this place has anything to read: an entry that its last snapshot did not show.
create function chimpbase.is_behind(stream int, shelf int, prev_epoch int, prev pg_snapshot, floor bigint) returns boolean
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
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
$$;

-- The runtime's own: bring a stream's retention to what is declared. From the first one on it has a shelf of its own.
create function chimpbase.retain_stream(name text, retention interval, max_bytes bigint) returns int
language plpgsql
as $$
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
$$;

-- The runtime's own: make one day of a stream's shelf; what came before it was made moves into it.
-- Nobody may be on the way to the default partition meanwhile: an append that has chosen it, and waits for it, would find
-- that its entry belongs elsewhere by now, and fail. So the shelf itself is locked first, where appends choose. Everybody
-- who comes waits behind this lock, so it is not waited for long; days are made long before they are needed.
create function chimpbase.create_stream_day(stream int, day date) returns void
language plpgsql
set lock_timeout = '1s'
as $$
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
$$;

-- The runtime's own: drop one day of a stream's shelf, and note how far its entries are gone.
create function chimpbase.drop_stream_day(stream int, day date) returns void
language plpgsql
as $$
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
$$;

-- Whether a slot may be taken: nobody has it, its process is gone, or this very process forgot that it has it.
create function chimpbase.is_free(holder bigint, me bigint, running boolean) returns boolean
language sql stable
as $$
  select holder is null or (holder = me and not running)
    or not exists (select from chimpbase.process p where p.id = holder and p.dead_at is null)
$$;

-- The slots of these consumers that have something to read and that this process may take; `running` are those it is at.
create function chimpbase.idle_slots(consumers int[], me bigint, running int[]) returns table (consumer int, slot int)
language sql stable
as $$
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
$$;

-- The runtime's own: make a consumer known. It begins with what is there, with what comes, or at an instant.
create function chimpbase.declare_consumer(
  name text, stream text, wanted int, start text, since timestamptz,
  out consumer int, out stream_name text, out shelf int, out partitions int
)
language plpgsql
as $$
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
$$;

-- Events ---------------------------------------------------------------------------------------------------------------

-- `matcher` is the regular expression of a pattern, null for one topic; `conditions` what must hold of the payload, as
-- [{path, op, value}]; `key_path` the field whose value orders the deliveries.
alter table chimpbase.subscription
  add column matcher text,
  add column conditions jsonb,
  add column key_path text[];
create index subscription_matcher on chimpbase.subscription (name) where matcher is not null;

-- Whether a payload meets all conditions. Numbers are compared with numbers and texts with texts, byte by byte; anything
-- else has no order, and what is not there equals nothing.
create function chimpbase.meets(payload jsonb, conditions jsonb) returns boolean
language sql immutable parallel safe
as $$
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
$$;

-- The key by which a delivery is ordered: a field of the payload, by its hash when it is long; null without one.
create function chimpbase.delivery_key(payload text, path text[]) returns text
language sql immutable parallel safe
as $$
  select case when octet_length(found) > 512 then md5(found) else nullif(found, '') end
  from (select case when path is not null then payload::jsonb #>> path end as found) as key
$$;

-- Deliver stored events to one subscription, oldest first, as if they were published now; how many.
create function chimpbase.replay(subscription text, since timestamptz default '-infinity') returns bigint
language plpgsql
as $$
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
$$;

-- Drop a subscription with the deliveries of it that wait and its dead letters; how many. What is being handled ends.
-- Publishers wait meanwhile: none may make a delivery of it afterwards.
create function chimpbase.drop_subscription(name text) returns bigint
language plpgsql
as $$
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
$$;

-- The runtime's own: make a subscription stand, or bring it to what is declared. A new one gets the events stored since
-- `since`, if that is given. Publishers wait meanwhile: none may pass between what is replayed and what is to come.
create function chimpbase.declare_subscription(
  name text, topic text, queue int, matcher text, conditions jsonb, key_path text[], since timestamptz
) returns void
language plpgsql
as $$
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
$$;
