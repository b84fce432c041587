"""What `--help` says of each command: one line for the list, a page of its own, and examples.

Invariant: every command is in this table, and every example in it is a command line that parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Help(NamedTuple):
    """The help of one command. `page` is in lines of at most 80 characters, since plain text is not wrapped again.

    A command with `verbs` is a group: each verb is a function of the module of its name, with one line of help.
    """

    line: str
    page: str
    examples: str
    verbs: Mapping[str, str] = MappingProxyType({})

    @property
    def text(self) -> str:
        """The line and the page, as the parser takes them."""
        return f"{self.line}\n\n{self.page.strip()}\n"

    @property
    def epilogue(self) -> str:
        """The examples, indented under a heading."""
        return "\n".join(["Examples:", *(f"  {line}" for line in self.examples.strip().splitlines())]) + "\n"


ABOUT = """\
Actions, subscriptions, workers, cron and workflows on one PostgreSQL.

Without DATABASE_URL a private PostgreSQL is started in the project.
"""
EPILOGUE = """\
Every command takes --help, and --debug for whole tracebacks.
Exit codes: 0 ok, 1 failure, 2 usage, 3 not found.
"""
#: In the order of `chimpbase --help`. Each command is a function of a module of the same name, a group such a module.
COMMANDS = {
    "dev": Help(
        "Run an app while you write it: database, HTTP, workers, reload on save.",
        """
Starts a private PostgreSQL in .chimpbase/pg unless DATABASE_URL names another,
applies migrations, serves HTTP, runs workers, subscriptions, cron and
workflows, and restarts the app when a .py or .sql file, pyproject.toml or .env
is saved. Jobs that a restart interrupts run again, without an attempt charged.
Ctrl-C stops cleanly, a second one at once.
""",
        """
chimpbase dev                          # app.py or main.py here
chimpbase dev shop.py --port 9000
chimpbase dev shop.main:app --no-reload
""",
    ),
    "start": Help(
        "Run an app in production: the same program, without reload.",
        """
Applies migrations, serves HTTP, and runs workers, subscriptions, cron and
workflows until SIGTERM or SIGINT. Then it takes nothing new, lets running jobs
finish for the grace, gives back the rest and exits 0. A second signal ends it
at once. Log lines are JSON unless standard error is a terminal.
""",
        """
chimpbase start shop:app --host 0.0.0.0
chimpbase start --no-http              # a process that only works
chimpbase start --no-workers           # a process that only serves
""",
    ),
    "migrate": Help(
        "Bring the database's schema up to date, or show what would be done.",
        """
Applies our own migrations, then those of the project's migrations directory.
Safe at any time and from several machines at once: one applies, the others
find nothing to do. dev and start do the same when they start.
""",
        """
chimpbase migrate
chimpbase migrate --check              # for a deployment to ask
chimpbase migrate --sql > schema.sql   # to apply by hand, with psql
""",
    ),
    "ls": Help(
        "List everything an app registers, with file and line.",
        """
Kind, name, details and place, one registration per line, so that grep finds
them. Asks no database.
""",
        """
chimpbase ls
chimpbase ls shop:app -o json
chimpbase ls | grep ^cron
""",
    ),
    "call": Help(
        "Run one action of an app and print its result as JSON.",
        """
The action runs in this process, in a transaction of its own; what it enqueues
is left to the processes that run workers. Logs go to standard error, so that
standard output is the result alone.
""",
        """
chimpbase call place_order sku=tea quantity=2
chimpbase call place_order lines:='[{"sku": "tea"}]' --app shop:app
chimpbase call report day=2026-11-23 | jq .total
""",
    ),
    "queue": Help(
        "Look at queues, pause and limit them, hold jobs of them.",
        """
The queues of the database: those of workers, and subscription:NAME, cron:NAME
and workflow:NAME@VERSION. Needs the project for its database, but not the app's
code. What changes many jobs wants a filter or --all, and asks unless --yes.
""",
        """
chimpbase queue ls
chimpbase queue stats --watch
chimpbase queue pause mail.send --reason "the provider is down"
chimpbase queue resume mail.send
chimpbase queue limit mail.send --concurrency 5 --rate 100/1m
chimpbase queue limit mail.send --ordered strict
chimpbase queue strike mail.send --payload '{"tenant": 7}' --reason "it floods us"
chimpbase queue strikes
chimpbase queue lift 3
chimpbase queue purge mail.send --until 7d --yes
""",
        {
            "ls": "List queues: processes, limits, pauses.",
            "stats": "Count the jobs of each queue by state.",
            "pause": "Hand out no more jobs of a queue.",
            "resume": "Let a paused queue go on.",
            "limit": "Set limits of a queue over those of code.",
            "strike": "Hold jobs by what their payload contains.",
            "strikes": "List the strikes in force.",
            "lift": "Let go of what a strike holds.",
            "purge": "Delete dead letters of a queue.",
        },
    ),
    "job": Help(
        "Look at jobs, cancel them, retry them, redrive dead ones.",
        """
Needs the project for its database, but not the app's code. What changes many
jobs wants a filter or --all, and asks unless --yes.
""",
        """
chimpbase job ls --queue mail.send --state dead
chimpbase job show 4711 -o json
chimpbase job why 4711
chimpbase job retry 4711 4712
chimpbase job cancel 4711 --reason "ordered twice"
chimpbase job redrive --queue mail.send --error TimeoutError --rate 50 --yes
""",
        {
            "ls": "List jobs, newest first.",
            "show": "Show one job: where it is, and why.",
            "why": "Say why a job is not running.",
            "retry": "Run jobs now that are dead or delayed.",
            "cancel": "Cancel jobs, waiting or running.",
            "redrive": "Give dead letters new attempts.",
        },
    ),
    "why": Help(
        "Say why a job is not running, in one sentence.",
        """
Paused by whom, held by which limit and which jobs, not due until when, worked
by no process, locked by which session. The same as `chimpbase job why`.
""",
        """
chimpbase why 4711
chimpbase why 4711 -o json
""",
    ),
    "cron": Help(
        "Look at schedules, and run, pause and resume them.",
        """
The schedules of the database: those that code declares and those that were made
at run time. Needs the project for its database, but not the app's code.
""",
        """
chimpbase cron ls --prefix invoice:
chimpbase cron next daily_report -n 3
chimpbase cron next '0 9 * * 1-5' --tz Europe/Lisbon
chimpbase cron run daily_report
chimpbase cron pause daily_report
chimpbase cron resume daily_report
chimpbase cron remove invoice:42
""",
        {
            "ls": "List schedules: cadence, next, last, and in words.",
            "next": "Show the next instants of a schedule or an expression.",
            "run": "Make a job of a schedule now.",
            "pause": "Stop a schedule until it is resumed.",
            "resume": "Let a paused schedule go on.",
            "remove": "Forget a schedule.",
        },
    ),
    "workflow": Help(
        "Look at workflow runs, and steer them.",
        """
The runs of the database. check replays every run that has not ended over the
code at hand, writes nothing, and exits 1 if one could not go on: ask it before
a deployment. Only check, start and contracts need the app's code.
""",
        """
chimpbase workflow ls --status failed
chimpbase workflow show order-7
chimpbase workflow export order-7 > tests/journals/order-7.json
chimpbase workflow start checkout --input 7 --id order-7
chimpbase workflow signal order-7 payment --payload '{"ok": true}'
chimpbase workflow cancel order-7 --reason 'out of stock'
chimpbase workflow pause order-7
chimpbase workflow resume order-7
chimpbase workflow retry order-7
chimpbase workflow rewind order-7 --step charge#1
chimpbase workflow fork order-7 --step charge#1 --id order-7b
chimpbase workflow check --app shop:app
chimpbase workflow contracts check     # the shapes of versions, kept as files
""",
        {
            "ls": "List runs, the newest first.",
            "show": "Show what a run has done, and why it waits.",
            "export": "Print the journal of a run, for tests.",
            "start": "Start a run.",
            "signal": "Send a signal to a run.",
            "cancel": "Cancel a run.",
            "pause": "Let a run begin nothing new.",
            "resume": "Let a paused run go on.",
            "retry": "Let a blocked or failed run try again.",
            "rewind": "Do everything from a step on once more.",
            "fork": "Start another run with what one has done.",
            "check": "Replay the runs that have not ended over this code.",
            "contracts": "Write or check the contracts of workflows.",
        },
    ),
    "kv": Help(
        "Look at keys, and set and delete them.",
        """
The keys of no namespace, or of one with --namespace. Values are JSON. Needs the
project for its database, but not the app's code.
""",
        """
chimpbase kv ls user:
chimpbase kv ls --namespaces
chimpbase kv get greeting | jq .
chimpbase kv put greeting '"hello"' --ttl 1h
chimpbase kv delete tea --namespace quotes
""",
        {
            "ls": "List keys with their values.",
            "get": "Print a value as JSON.",
            "put": "Set a value.",
            "delete": "Delete a key.",
        },
    ),
    "collection": Help(
        "Look at documents, store and delete them.",
        """
Documents and filters are JSON. Needs the project for its database, but not the
app's code. Deleting by a filter asks unless --yes.
""",
        """
chimpbase collection ls
chimpbase collection find customers '{"age": {"gte": 18}}' --sort city,-age
chimpbase collection get customers ada
chimpbase collection put customers '{"id": "ada", "age": 36}'
chimpbase collection delete customers ada
chimpbase collection indexes customers
""",
        {
            "ls": "List collections and count their documents.",
            "get": "Print a document as JSON.",
            "find": "Find documents by a filter.",
            "put": "Store a document.",
            "delete": "Delete documents, by id or by a filter.",
            "indexes": "List the indexes of a collection, or drop one.",
        },
    ),
    "event": Help(
        "Look at events, publish and broadcast by hand.",
        """
The events that are stored, as long as event_retention says. Payloads are JSON.
Needs the project for its database, but not the app's code, unless --checked
asks it for the type of a payload.
""",
        """
chimpbase event ls 'order.*' -n 20
chimpbase event ls --topics
chimpbase event show 4711 -o json
chimpbase event publish order.placed '{"total": 7}'
chimpbase event broadcast price.changed '"tea"'
chimpbase event tail 'order.#'
""",
        {
            "ls": "List events, the latest first, or topics.",
            "show": "Show one event and what published it.",
            "publish": "Publish an event.",
            "broadcast": "Tell every live process, best effort.",
            "tail": "Print every event as it is published.",
        },
    ),
    "subscription": Help(
        "Look at subscriptions, replay events to them, pause and drop them.",
        """
The subscriptions of the database, those of other versions of the code too. One
that no code declares any more keeps its deliveries until it is dropped.
""",
        """
chimpbase subscription ls
chimpbase subscription replay send_invoice --since 2026-11-23T09:00:00Z
chimpbase subscription pause send_invoice --reason "the provider is down"
chimpbase subscription resume send_invoice
chimpbase subscription drop send_invoice --yes
""",
        {
            "ls": "List subscriptions: processes, deliveries.",
            "replay": "Deliver stored events to a subscription once more.",
            "pause": "Let deliveries of a subscription wait.",
            "resume": "Let a paused subscription go on.",
            "drop": "Drop a subscription and its deliveries.",
        },
    ),
    "stream": Help(
        "Look at streams and their consumers, and send consumers back.",
        """
The streams of the database and who reads them. Needs the project for its
database, but not the app's code.
""",
        """
chimpbase stream ls
chimpbase stream read audit -n 10 --backward
chimpbase stream tail audit -o json
chimpbase stream append audit '{"who": "ada"}' --key ada
chimpbase stream consumers
chimpbase stream dead indexer
chimpbase stream redrive indexer 4711
chimpbase stream redrive indexer --all --yes
chimpbase stream rewind indexer --to 2026-11-23T09:00:00Z
chimpbase stream pause indexer
chimpbase stream resume indexer
""",
        {
            "ls": "List streams: the latest entry, the version, what is kept.",
            "read": "Read entries of a stream.",
            "tail": "Print every entry as it is committed.",
            "append": "Append an entry to a stream.",
            "consumers": "List consumers: lag, dead letters, what stops them.",
            "dead": "List the dead letters of a consumer.",
            "redrive": "Have dead letters handled once more.",
            "rewind": "Send a consumer to another place.",
            "pause": "Let a consumer begin no further batch.",
            "resume": "Let a consumer go on.",
        },
    ),
    "psql": Help(
        "Open psql on the app's database, read-only unless --write.",
        """
The database is DATABASE_URL, or the private PostgreSQL of the project, which is
started when it does not run and stopped again afterwards. Read-only is a guard
against slips, not against intent. A password is never in the arguments of psql.
""",
        """
chimpbase psql
chimpbase psql -- -c 'select count(*) from orders'
chimpbase psql --write -- -f fix.sql
""",
    ),
    "config": Help(
        "Show every setting, its value and where that came from.",
        """
A setting is taken from the command line, else from CHIMPBASE_<NAME> in the
environment, else from [tool.chimpbase] in pyproject.toml, else it has its
default. DATABASE_URL and PORT count too, and PGHOST and its like when there is
no URL. Secrets are masked.
""",
        """
chimpbase config
CHIMPBASE_LEASE=30s chimpbase config | grep lease
chimpbase config -o json
""",
    ),
    "version": Help(
        "Print the version of chimpbase, and of what it runs on.",
        """
`chimpbase --version` prints the number alone.
""",
        """
chimpbase version
""",
    ),
}
