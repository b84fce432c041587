-- Consumers and their slots, in chimpbase.consumer and chimpbase.consumer_slot.
-- Each statement is run by the function of the same name in consumers.py.

-- name: declare
-- Make a consumer known, with its slots at the place where it begins; nothing changes when it is.
select consumer, stream_name, shelf, partitions
from chimpbase.declare_consumer(:name, :stream, :partitions, :start, :since);

-- name: take
-- Lease a slot that has something to read, counting the attempt; a row when there is one.
-- Locks:  that slot (skip locked).
update chimpbase.consumer_slot as slot
set attempt = slot.attempt + 1,
    fence = slot.fence + 1,
    process = :process,
    taken_at = chimpbase.clock(),
    retry_at = null
where (slot.consumer, slot.slot) = (
  select mine.consumer, mine.slot
  from chimpbase.consumer_slot as mine
  where mine.consumer = :consumer
    and (mine.consumer, mine.slot) in (
      select consumer, idle.slot
      from chimpbase.idle_slots(array[:consumer]::int[], :process, :running::int[]) as idle
    )
  order by mine.taken_at nulls first
  limit 1
  for update skip locked
)
  and chimpbase.is_free(slot.process, :process, slot.slot = any (:running::int[]))
returning
  slot.slot, slot.attempt, slot.fence, slot.since, slot.prev_epoch, slot.prev::text, slot.cur_epoch, slot.cur::text,
  slot.floor, slot.last;

-- name: move
-- Move a slot on under its fence, and let it go; no row when the lease is lost.
-- Locks:  the slot.
update chimpbase.consumer_slot
set process = null,
    attempt = 0,
    retry_at = null,
    error = null,
    moved_at = chimpbase.clock(),
    since = :since,
    prev_epoch = :prev_epoch,
    prev = :prev::text::pg_snapshot,
    cur_epoch = :cur_epoch,
    cur = :cur::text::pg_snapshot,
    floor = :floor,
    last = :last
where consumer = :consumer
  and slot = :slot
  and process = :process
  and fence = :fence
returning slot;

-- name: put_off
-- Let a slot go where it is, until `delay` has passed; with `blocked` until somebody rewinds or resumes it.
-- Locks:  the slot.
update chimpbase.consumer_slot
set process = null,
    attempt = attempt - case when :charged then 0 else 1 end,
    retry_at = chimpbase.clock() + :delay::interval,
    blocked_at = case when :blocked then chimpbase.clock() end,
    error = coalesce(:error, error)
where consumer = :consumer
  and slot = :slot
  and process = :process
  and fence = :fence
returning slot;

-- name: bury
-- Keep an entry as a dead letter of the consumer. In one transaction with `move`.
insert into chimpbase.consumer_dead (consumer, entry, slot, version, appended_at, key, payload, headers, error)
values (:consumer, :entry, :slot, :version, :appended_at, :key, :payload, :headers, :error)
on conflict (consumer, entry) do update
set error = excluded.error,
    died_at = excluded.died_at,
    redriven_at = null;

-- name: next_redriven
-- The first dead letter of a slot that is to be handled once more.
-- Index:  consumer_dead_redriven.
select entry as id, version, key, payload, appended_at, headers
from chimpbase.consumer_dead
where consumer = :consumer
  and slot = :slot
  and redriven_at is not null
order by entry
limit 1;

-- name: revive
-- Forget a dead letter that has been handled after all. In one transaction with `move`.
delete from chimpbase.consumer_dead
where consumer = :consumer
  and entry = :entry;

-- name: list_dead
-- Dead letters of a consumer, by entry, after one.
-- Index:  consumer_dead_pkey.
-- Touches: chimpbase.consumer, for its number.
select entry, key, payload, appended_at, died_at, redriven_at, error
from chimpbase.consumer_dead
where consumer = (select id from chimpbase.consumer where name = :name)
  and entry > :after
order by entry
limit :most;

-- name: redrive
-- Have dead letters of a consumer handled once more: these entries, or all; how many.
-- Locks:  the dead letters.
-- Touches: chimpbase.consumer, for its number.
update chimpbase.consumer_dead
set redriven_at = chimpbase.clock()
where consumer = (select id from chimpbase.consumer where name = :name)
  and redriven_at is null
  and (:entries::bigint[] is null or entry = any (:entries::bigint[]));

-- name: purge
-- Delete dead letters of a consumer: these entries, or all; how many.
-- Touches: chimpbase.consumer, for its number.
delete from chimpbase.consumer_dead
where consumer = (select id from chimpbase.consumer where name = :name)
  and (:entries::bigint[] is null or entry = any (:entries::bigint[]));

-- name: rewind
-- Send every slot of a consumer to a place; whoever is at one loses it. How many slots.
-- Locks:  the slots.
update chimpbase.consumer_slot
set process = null,
    attempt = 0,
    fence = fence + 1,
    retry_at = null,
    blocked_at = null,
    error = null,
    since = :since,
    prev_epoch = :prev_epoch,
    prev = :prev::text::pg_snapshot,
    cur_epoch = :cur_epoch,
    cur = :cur::text::pg_snapshot,
    floor = :floor,
    last = :last
where consumer = (select id from chimpbase.consumer where name = :name);

-- name: find
-- A consumer by name: its number and its stream's.
-- Index:  consumer_name_key.
-- Touches: chimpbase.stream, for its name.
select consumer.id, stream.name as stream, stream.id as number, stream.shelf
from chimpbase.consumer
join chimpbase.stream on stream.id = consumer.stream
where consumer.name = :name;

-- name: set_paused
-- Pause a consumer, or let it go on: also from an entry that stopped it. A row when there is one of that name.
-- Locks:  the consumer and its slots.
with changed as (
  update chimpbase.consumer
  set paused_at = case when :paused then coalesce(paused_at, chimpbase.clock()) end
  where name = :name
  returning id
), freed as (
  update chimpbase.consumer_slot
  set blocked_at = null,
      attempt = 0,
      retry_at = null
  where not :paused
    and consumer = (select id from changed)
    and blocked_at is not null
  returning slot
)
select id from changed;

-- name: list_all
-- Every consumer: where each of its slots is, how far behind (10,001 means more than 10,000), its dead letters.
-- Touches: chimpbase.stream and entry, to tell how far behind it is.
select
  consumer.name, stream.name as stream, consumer.partitions, consumer.paused_at,
  (select count(*) from chimpbase.consumer_dead where consumer_dead.consumer = consumer.id) as dead,
  slot.slot, slot.process, slot.attempt, slot.blocked_at, slot.moved_at, slot.error,
  (
    select count(id)
    from chimpbase.read_entries(
      consumer.stream, stream.shelf, slot.prev_epoch, slot.prev, null, null, slot.floor, slot.last, slot.since,
      consumer.partitions, slot.slot, 10001)
  ) as lag
from chimpbase.consumer
join chimpbase.stream on stream.id = consumer.stream
join chimpbase.consumer_slot as slot on slot.consumer = consumer.id
order by consumer.name, slot.slot;
