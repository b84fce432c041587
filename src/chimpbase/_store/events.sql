-- Events and the subscriptions that are owed them, in chimpbase.event and chimpbase.subscription.
-- Each statement is run by the function of the same name in events.py.

-- name: publish
-- Store an event and one delivery job for each subscription of its topic.
select event, queues from chimpbase.publish_event(:topic, :payload, :headers);

-- name: subscribe
-- Add the subscriptions that are new; move one whose topic changed. None is ever removed here.
-- Locks:  changed rows, in the order of their names.
insert into chimpbase.subscription (name, topic, queue)
select name, topic, queue
from unnest(:names::text[], :topics::text[], :queues::int[]) as spec (name, topic, queue)
where not exists (
  select 1
  from chimpbase.subscription
  where subscription.name = spec.name
    and subscription.topic = spec.topic
)
order by name
on conflict (name) do update
set topic = excluded.topic;

-- name: list_subscriptions
-- Every subscription of the database: name, topic.
select name, topic from chimpbase.subscription order by name;
