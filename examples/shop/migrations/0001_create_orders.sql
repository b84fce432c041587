create table orders (
  id            bigint generated always as identity primary key,
  ref           text unique,                   -- the client's own key: an order sent twice is one order
  sku           text not null,
  qty           int not null check (qty > 0),
  status        text not null default 'pending'
                check (status in ('pending', 'paid', 'shipped', 'completed', 'cancelled')),
  created_at    timestamptz not null default now(),
  shipped_at    timestamptz
);
create index orders_status on orders (status, id);

-- The tables below have no unique key on purpose. Each row is an effect of a job or of a workflow step, and what would
-- happen twice would be counted twice.

create table charge (
  id            bigint generated always as identity primary key,
  order_id      bigint not null references orders (id),
  charged_at    timestamptz not null default now()
);

create table audit (
  id            bigint generated always as identity primary key,
  order_id      bigint not null references orders (id),
  what          text not null,
  written_at    timestamptz not null default now()
);
create index audit_order on audit (order_id);

create table stock (
  sku           text primary key,
  reserved      bigint not null                -- a counter: the least forgiving of all effects
);

create table snapshot (
  id            bigint generated always as identity primary key,
  due_at        timestamptz not null,
  counts        jsonb not null                 -- how many orders are in each status
);
