-- Workflow runs: what starts, wakes, signals, cancels, pauses, repeats and ends them.
-- Locks are taken from parent to child, always: whoever ends a run locks its parent first.
-- What cannot be done is answered in `refused`, an SQLSTATE of ours, instead of raised: a caller who expected a conflict
-- can go on in the same transaction.
--   CB001  no such workflow     CB003  a run with that id exists     CB004  the run's state does not allow it
--   CB005  no such run          CB008  no such step, or no such callback

-- The keys of signals that were sent with one, consumed or not: a second signal with the same key is dropped.
create table chimpbase.signal_key (
  run           bigint not null,
  key           text not null,
  primary key (run, key)
);

-- Tokens that somebody outside completes, once.
create table chimpbase.callback (
  token         text primary key,
  run           bigint not null,
  key           text not null,
  completed_at  timestamptz
);
create index callback_run on chimpbase.callback (run);

-- What became of updates: a result or an error.
create table chimpbase.reply (
  id            text primary key,
  run           bigint not null,
  result        text,
  error         text,
  replied_at    timestamptz not null default chimpbase.clock()
);
create index reply_run on chimpbase.reply (run);

-- What each code of a workflow mentioned, by the hash of the code: so that a step which is new can be told from one that
-- has got another name. One row for each code that was ever deployed.
create table chimpbase.workflow_code (
  hash          text primary key,
  names         text not null
);

-- Make the activation of a run at rest ready; its queue, or null when it is not at rest. The caller holds the run's lock.
create function chimpbase.wake_run(number bigint) returns int
language plpgsql
as $$
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
$$;

-- Give a message to a run whose lock the caller holds; the queue to wake, or null.
create function chimpbase.put_signal(run chimpbase.run, name text, payload text) returns int
language plpgsql
as $$
begin
  insert into chimpbase.signal (run, name, payload) values (put_signal.run.number, put_signal.name, put_signal.payload);
  if run.paused_at is null and run.waits is not null and put_signal.name = any (run.waits) then
    return chimpbase.wake_run(run.number);
  end if;
  update chimpbase.run r set woken = true where r.number = put_signal.run.number and not r.woken;
  return null;
end
$$;

-- Store a signal and wake its run; the queue to wake, or null when the run need not wake or is awake. With a `dedupe` key
-- a second one is dropped. The run's row lock orders this against its own attempt to suspend: one always sees the other.
create function chimpbase.send_signal(
  id text, name text, payload text, dedupe text, out queue int, out refused text, out state text
)
language plpgsql
as $$
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
$$;

-- End a run: note how, tell its parent, and cancel the children that are to end with it. The activation is gone already.
-- The queues to wake. The caller holds the locks of parent and run.
create function chimpbase.close_run(run chimpbase.run, state text, output text, error text) returns int[]
language plpgsql
as $$
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
$$;

-- Take a run's activation away, wherever it is; whoever runs it is fenced out.
create function chimpbase.drop_activation(job bigint) returns void
language sql
as $$
  delete from chimpbase.job j where j.id = drop_activation.job;
  delete from chimpbase.job_later j where j.id = drop_activation.job;
  delete from chimpbase.job_dead j where j.id = drop_activation.job;
$$;

-- Wish a living run cancelled; the queues to wake. One that is blocked has no code to hear it and ends at once.
-- The caller holds the run's lock, and its parent's when it is blocked.
create function chimpbase.ask_to_cancel(run chimpbase.run, reason text) returns int[]
language plpgsql
as $$
begin
  if run.state = 'blocked' then
    perform chimpbase.drop_activation(run.job);
    return chimpbase.close_run(run, 'cancelled', null, reason);
  end if;
  update chimpbase.run r set cancel_reason = coalesce(r.cancel_reason, reason), paused_at = null
  where r.number = ask_to_cancel.run.number;
  return array_remove(array[chimpbase.wake_run(run.number)], null);
end
$$;

-- Lock a run and, before it, its parent; null when there is no such run.
create function chimpbase.lock_run(id text) returns chimpbase.run
language plpgsql
as $$
declare
  run chimpbase.run;
begin
  perform 1 from chimpbase.run p
  where p.number = (select r.parent from chimpbase.run r where r.id = lock_run.id) for update;
  select r.* into run from chimpbase.run r where r.id = lock_run.id for update;
  return run;
end
$$;

-- Cancel a run. With `force` it ends here and now, without its code having a say. `queues` are those to wake.
create function chimpbase.cancel_run(
  id text, reason text, force boolean, out queues int[], out number bigint, out refused text, out state text
)
language plpgsql
as $$
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
$$;

-- Pause a run, or let it go on. One that is active pauses at its next step. `queue` is to be woken.
create function chimpbase.pause_run(
  id text, pause boolean, out queue int, out number bigint, out refused text, out state text
)
language plpgsql
as $$
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
$$;

-- Create a run and its first activation. When a run with that id exists: `refused` is CB003, or with `on_conflict` of
-- 'use_existing' `existed` is true and nothing changes, or with 'replace' the old one is ended and moved to another id.
-- options: priority, key, attributes, parent, on_parent_close, on_conflict, seed.
create function chimpbase.start_run(
  workflow text, version int, id text, input text, delay interval, headers text, options jsonb,
  out queue int, out run_version int, out existed boolean, out queues int[], out refused text
)
language plpgsql
as $$
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
$$;

-- Start a workflow; return the run's id.
-- options: id (default: a random UUID), version (default: the highest known), delay (seconds), headers (object),
-- on_conflict ('fail', 'use_existing', 'replace'), priority, key, attributes (object).
create function chimpbase.start_workflow(workflow text, input jsonb default 'null', options jsonb default '{}') returns text
language plpgsql
as $$
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
$$;

-- Send a signal to a run, now or before the run waits for it: it is kept until a wait of that name consumes it.
-- options: dedupe (a second signal with the same key is dropped).
create function chimpbase.signal(id text, name text, payload jsonb default 'null', options jsonb default '{}') returns void
language plpgsql
as $$
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
$$;

-- Complete a callback, once; the queue to wake. A second time changes nothing.
create function chimpbase.complete_callback(token text, payload text, out queue int, out refused text, out state text)
language plpgsql
as $$
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
$$;

-- Let a run go on from what its journal holds, under a new activation; the queue to wake. The caller holds its lock.
create function chimpbase.restart_run(run chimpbase.run) returns int
language plpgsql
as $$
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
$$;

-- Repeat a run from a step on, as if that and all that followed had not been done (their effects remain). With no step,
-- try again what failed: a blocked run goes on, a failed one repeats the step that failed last.
create function chimpbase.rewind_run(
  id text, step text, out queue int, out number bigint, out refused text, out state text
)
language plpgsql
as $$
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
$$;

-- Start another run with the same input and what the first had done before a step; the first is left as it is.
create function chimpbase.fork_run(
  id text, step text, fork text, out queue int, out refused text
)
language plpgsql
as $$
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
$$;

-- End a run of a family, together with its activation, under the fence; false when the lease is lost.
create function chimpbase.end_run(
  run bigint, job bigint, process bigint, attempt int, state text, output text, error text, view text, code text,
  out held boolean, out queues int[]
)
language plpgsql
as $$
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
$$;
