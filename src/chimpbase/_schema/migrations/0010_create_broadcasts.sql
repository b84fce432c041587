-- Broadcasts: what every live process hears once it is committed, if it lives long enough.

-- Drawn in blocks, since in order they would cost a flush of the log; so they order what one transaction sent, no more.
create sequence chimpbase.broadcast_id as bigint cache 1000;

-- Written without a flush of the log, and kept for a minute or two: a process reads what was committed since it looked
-- last, by the difference of two snapshots, so what commits late is not missed.
create unlogged table chimpbase.broadcast (
  xid           xid8 not null default pg_current_xact_id(),
  id            bigint not null default nextval('chimpbase.broadcast_id'),
  sent_at       timestamptz not null default chimpbase.clock(),
  topic         text not null,
  payload       text not null,
  headers       text,
  primary key (xid, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- A crash of the server empties both tables: who finds another era than before has missed something.
create unlogged table chimpbase.broadcast_era (
  one           boolean primary key default true check (one),
  era           uuid not null default gen_random_uuid()
);

-- Broadcast a message: every live process that wants it hears it, best effort, if this transaction commits.
-- options: headers (object).
create function chimpbase.broadcast(topic text, payload jsonb, options jsonb default '{}') returns void
language plpgsql
as $$
begin
  perform chimpbase.check_options(options, array['headers']);
  if topic is null or payload is null or topic !~ '^[A-Za-z0-9_.:/-]{1,128}$' then
    raise exception using errcode = 'CB002', message = 'broadcast takes a topic and a payload';
  end if;
  insert into chimpbase.broadcast (topic, payload, headers)
  values (broadcast.topic, broadcast.payload::text, options ->> 'headers');
end
$$;
