-- What is done to workflow runs from outside: start, signal, cancel, pause, repeat.
-- Each statement is run by the function of the same name in run_commands.py. All of them call the SQL functions that any
-- other client calls.

-- name: start
-- Create a run and its first activation; or why that cannot be.
select queue, run_version, existed, queues, refused
from chimpbase.start_run(:workflow, :version, :id, :input, :delay::interval, :headers, :options::text::jsonb);

-- name: signal
-- Store a signal; the queue of the activation it woke, if any; or why that cannot be.
select queue, refused, state from chimpbase.send_signal(:id, :name, :payload, :dedupe);

-- name: complete
-- Complete a callback; the queue of the activation it woke, if any; or why that cannot be.
select queue, refused, state from chimpbase.complete_callback(:token, :payload);

-- name: cancel
-- Wish a run cancelled, or end it by force.
select queues, number, refused, state from chimpbase.cancel_run(:id, :reason, :force);

-- name: pause
-- Pause a run, or with `pause` false let it go on.
select queue, number, refused, state from chimpbase.pause_run(:id, :pause);

-- name: rewind
-- Repeat a run from a step on, or what failed.
select queue, number, refused, state from chimpbase.rewind_run(:id, :step);

-- name: fork
-- Start another run with what this one did before a step.
select queue, refused from chimpbase.fork_run(:id, :step, :fork);
