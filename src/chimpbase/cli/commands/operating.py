"""What the commands for operators share: filters, permission for bulk changes, watching, instants.

Invariant: what changes many rows names a filter or says `--all`, and is confirmed on a terminal or with `--yes`.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from chimpbase import Ctx, errors
from chimpbase.cli.commands.options import AppName
from chimpbase.cli.failures import FAILURE, USAGE, CommandFailed, say
from chimpbase.cli.logs import to_json
from chimpbase.cli.paint import columns
from chimpbase.cli.without_code import on_database

R = TypeVar("R")
_WATCH_S = 2.0

App = Annotated[AppName, Parameter(name=("--app",))]
QueueName = Annotated[str, Parameter(help="The queue's name, as `chimpbase queue ls` shows it.")]
Queue = Annotated[str | None, Parameter(help="Only jobs of this queue.")]
Reason = Annotated[str | None, Parameter(help="Why they died: exhausted, hopeless, crashed, rejected, ...")]
ErrorType = Annotated[str | None, Parameter(help="The name of the last error's type, such as ValueError.")]
Since = Annotated[str | None, Parameter(help="Died at this time or later: 2026-11-23T08:00, or an age such as 2h.")]
Until = Annotated[str | None, Parameter(help="Died before this time.")]
Payload = Annotated[str | None, Parameter(help="JSON that the payload contains.")]
Limit = Annotated[int | None, Parameter(help="At most so many.")]
Everything = Annotated[bool, Parameter(name=("--all",), negative=(), help="All of them, without a filter.")]
Yes = Annotated[bool, Parameter(negative=(), help="Do not ask.")]
Watch = Annotated[bool, Parameter(negative=(), help="Show it again every two seconds, until Ctrl-C.")]


def ask(
    app: str | None,
    question: Callable[[Ctx], Awaitable[R]],
    *,
    transaction: bool = True,
    with_code: bool = False,
) -> R:
    """The answer of a project's database; without `transaction` each verb commits by itself."""

    async def asked() -> R:
        async with on_database(app, transaction=transaction, with_code=with_code) as ctx:
            try:
                return await question(ctx)
            except errors.NotRegistered:
                raise
            except errors.UsageError as error:  # a condition that was typed, not the program, is wrong
                raise CommandFailed(str(error), code=USAGE) from error

    return asyncio.run(asked())


def watch(app: str | None, show: Callable[[Ctx], Awaitable[str]], *, again: bool) -> int:
    """Print what `show` makes, once or again and again; on a terminal it stays in place."""

    async def shown() -> None:
        async with on_database(app, transaction=False) as ctx:
            while True:
                text = await show(ctx)
                print(f"\x1b[H\x1b[2J{text}" if again and sys.stdout.isatty() else text, flush=True)
                if not again:
                    return
                await asyncio.sleep(_WATCH_S)

    asyncio.run(shown())
    return 0


def dead_filter(
    *,
    queue: str | None,
    reason: str | None,
    error: str | None,
    since: str | None,
    until: str | None,
    payload: str | None,
    ids: Sequence[int] = (),
) -> dict[str, Any]:
    """The conditions that were given, as `ctx.queue.dead` takes them."""
    given: dict[str, Any] = {
        "queue": queue,
        "reason": reason,
        "error": error,
        "since": instant(since, "--since"),
        "until": instant(until, "--until"),
        "payload": None if payload is None else read_json(payload),
        "ids": list(ids) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def permit(deed: str, *, filter: Mapping[str, Any], everything: bool, yes: bool) -> None:
    """See that somebody means to do this to many jobs.

    Raises:
        CommandFailed: nothing says which jobs, or nobody can be asked.
    """
    if not filter and not everything:
        raise CommandFailed(f"{deed} changes many jobs. Give a filter, such as --queue, or --all.", code=USAGE)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{deed} asks first, and this is no terminal. Give --yes.", code=USAGE)
    print(f"{deed}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("Nothing was changed.", code=FAILURE)


@contextmanager
def progress(title: str, total: int) -> Generator[Callable[[int], None]]:
    """A bar on a terminal's standard error, told how much is done; elsewhere nothing is shown."""
    if not sys.stderr.isatty() or not total:
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def instant(text: str | None, option: str) -> datetime | None:
    """A time as it is typed: ISO 8601, local without a zone, or an age such as 90m."""
    if text is None:
        return None
    from chimpbase._core.durations import parse_duration

    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - parse_duration(text, subject=option)
    except errors.UsageError:
        raise CommandFailed(
            f"{option} {text[:40]!r} is no time. Write 2026-11-23T08:00, or an age such as 2h.", code=USAGE
        ) from None


def read_json(text: str) -> Any:
    """JSON as it is typed."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"{text:.60} is not JSON: {error}. Quote it for the shell.", code=USAGE) from None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a heading, as text."""
    return "\n".join(columns([head, *rows]))


def local(at: datetime | None) -> str:
    """An instant for people, in local time."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def operator() -> str:
    """Who types this, for the record."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container may know its user by number only
        return f"somebody@{socket.gethostname()}"


def told(sentence: str, *, output: Literal["table", "json"] = "table", **record: Any) -> int:
    """Say what was done, to people or as the `record` of it, and end well."""
    print(to_json(record) if output == "json" else sentence)
    return 0


def warn(sentence: str) -> None:
    """Say something beside the answer."""
    say(sentence)
