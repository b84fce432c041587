-- Events and the subscriptions that are owed them, in chimpbase.event and chimpbase.subscription.
-- Each statement is run by the function of the same name in events.py.

-- name: publish
-- Store an event and one delivery job for each subscription that is owed it.
select event, queues from chimpbase.publish_event(:topic, :payload, :headers);

-- name: publish_each
-- Store events one after another, each with a delivery job for each subscription that is owed it; what each answers, in
-- order.
select told.event, told.queues
from unnest(:topics::text[], :payloads::text[], :headers::text[]) with ordinality as new (topic, payload, headers, place)
cross join lateral chimpbase.publish_event(new.topic, new.payload, new.headers) as told
order by new.place;

-- name: subscribe
-- Make a subscription stand, or bring it to what is declared.
select chimpbase.declare_subscription(:name, :topic, :queue, :matcher, :conditions::text::jsonb, :key_path, :since);

-- name: replay
-- Deliver stored events to one subscription; how many.
select chimpbase.replay(:subscription, coalesce(:since::timestamptz, '-infinity'));

-- name: find_queue
-- The queue of a subscription's deliveries.
-- Index:  subscription_pkey.
select queue
from chimpbase.subscription
where name = :name;

-- name: prune
-- Remove up to `max_events` events that are older than `age`; how many.
delete from chimpbase.event
where id in (
  select id
  from chimpbase.event
  where published_at < chimpbase.clock() - :age::interval
  order by published_at
  limit :max_events
  for update skip locked
);

-- name: list_subscriptions
-- Every subscription of the database: name, topic.
select name, topic from chimpbase.subscription order by name;

-- name: drop
-- Drop a subscription with its deliveries; how many.
select chimpbase.drop_subscription(:name);

-- name: count_workers
-- How many live processes work a subscription.
-- Touches: chimpbase.process, whose queues tell.
select count(*)
from chimpbase.subscription
join chimpbase.process on subscription.queue = any (process.queues)
where subscription.name = :name
  and process.dead_at is null
  and process.beat_at > chimpbase.clock() - process.lease;

-- name: list_topics
-- The topics of the stored events: how many there are, the first and the last. Reads them all: for people, not for loops.
select topic, count(*) as events, min(published_at) as first_at, max(published_at) as last_at
from chimpbase.event
group by topic
order by topic;

-- name: list_events
-- Stored events, the latest first: of topics that `matcher` fits, with an id above `above` and below `below`.
-- Index:  event_pkey.
select id, topic, payload, headers, published_at
from chimpbase.event
where id < :below
  and id > :above
  and (:matcher::text is null or topic ~ :matcher)
order by id desc
limit :most;
