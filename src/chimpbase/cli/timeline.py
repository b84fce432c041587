"""A run as a page for people: what it is, why it is where it is, and what it did when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from chimpbase import HistoryEntry, Run
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns

_SHORT = 60
_HEAD = ("AT", "STEP", "KIND", "TOOK", "ATTEMPT", "INPUT", "RESULT")


def page(run: Run, history: Sequence[HistoryEntry]) -> list[str]:
    """The lines of it."""
    since = run.started_at
    lasted = "" if run.finished_at is None else f", ended after {_span(run.finished_at - since)}"
    told: dict[str, str] = {
        "why": visible(run.why),
        "started": f"{since.astimezone():%Y-%m-%d %H:%M:%S}{lasted}",
        "input": brief(run.input),
    }
    told |= {name: brief(value) for name, value in _rest(run).items() if value is not None}
    lines = [f"{visible(run.id)}  {visible(run.workflow)}@{run.version}  {run.status}"]
    lines += [f"{name:<11}{text}" for name, text in told.items()]
    if not history:
        return [
            *lines,
            "",
            "Nothing was done yet." if run.finished_at is None else "It did nothing that is remembered.",
        ]
    return [*lines, "", *columns([_HEAD, *(_row(entry, since, history) for entry in history)])]


def brief(value: object) -> str:
    """A value as JSON, cut off where it gets long."""
    text = to_json(value)
    return visible(text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}...")


def _rest(run: Run) -> dict[str, Any]:
    return {
        "state": run.state,
        "output": run.output,
        "attributes": run.attributes,
        "parent": run.parent,
        "round": run.round if run.round > 1 else None,
    }


def _row(entry: HistoryEntry, since: datetime, history: Sequence[HistoryEntry]) -> tuple[str, ...]:
    took = _span(entry.finished_at - entry.started_at)
    result = "" if entry.result is None else brief(entry.result)
    if entry.kind == "sleep":
        took, result = _slept(entry, history)
    elif entry.kind == "retry":
        result = "failed, and is to be tried again"
    if entry.error:
        result = f"{result}: {visible(entry.error)}" if result else visible(entry.error)
    given = "" if entry.input is None else visible(entry.input) if isinstance(entry.input, str) else brief(entry.input)
    attempt = str(entry.attempt) if entry.kind in ("step", "retry", "child", "callback", "emit") else ""
    return f"+{_span(entry.started_at - since)}", visible(entry.key), entry.kind, took, attempt, given, result


def _slept(entry: HistoryEntry, history: Sequence[HistoryEntry]) -> tuple[str, str]:
    """How long a timer is, and until when; the timer of a wait that has ended is not waited for any more."""
    due = msgspec.convert(entry.result, datetime, strict=False)
    wait = entry.key.rpartition(".")[0]
    over = any(other.key == wait for other in history)
    return _span(due - entry.started_at), f"{'was set for' if over else 'until'} {due.astimezone():%Y-%m-%d %H:%M:%S}"


def _span(length: timedelta) -> str:
    """A duration as people read it: 12 ms, 3.4 s, 2m 05s, 3h 12m, 5d 02h."""
    seconds = max(length.total_seconds(), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes}m {whole % 60:02}s"
    return f"{hours}h {minutes % 60:02}m" if hours < 24 else f"{days}d {hours % 24:02}h"
