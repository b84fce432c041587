-- Broadcasts, in chimpbase.broadcast, and the era in which nothing of them was lost, in chimpbase.broadcast_era.
-- Each statement is run by the function of the same name in broadcasts.py.

-- name: send
-- Store a broadcast for those who look within the next minute.
insert into chimpbase.broadcast (topic, payload, headers)
values (:topic, :payload, :headers);

-- name: hear
-- What was committed since the snapshot `after` under topics that `wanted` fits, and one row without an id if there was
-- nothing; with each the era, the snapshot to go on from, and the clock.
-- Index:  broadcast_pkey.
with look as materialized (
  select
    (select era from chimpbase.broadcast_era) as era, pg_current_snapshot()::text as upto,
    extract(epoch from chimpbase.clock())::float8 as heard_at_s
)
select era, upto, heard_at_s, id, topic, payload, headers
from look
left join (
  select id, sent_at, topic, payload, headers
  from chimpbase.broadcast
  where xid >= pg_snapshot_xmin(:after::text::pg_snapshot)
    and not pg_visible_in_snapshot(xid, :after::text::pg_snapshot)
    and topic ~ :wanted
  order by sent_at, id
  limit :max_broadcasts
) as broadcast on true
order by sent_at, id;

-- name: begin_era
-- Begin an era, unless one has begun.
insert into chimpbase.broadcast_era default values
on conflict do nothing;

-- name: snapshot
-- What is committed now.
select pg_current_snapshot()::text;

-- name: prune
-- Remove up to `max_broadcasts` that a snapshot shows, which everybody has taken in by now.
-- Index:  broadcast_pkey.
delete from chimpbase.broadcast
where (xid, id) in (
  select xid, id
  from chimpbase.broadcast
  where xid < pg_snapshot_xmax(:seen::text::pg_snapshot)
    and pg_visible_in_snapshot(xid, :seen::text::pg_snapshot)
  order by xid, id
  limit :max_broadcasts
  for update skip locked
);
