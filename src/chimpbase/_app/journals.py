"""Journals as texts: what a run has done, to be kept in a file and replayed later over other code.

A text holds all that a replay needs, also what the code that wrote it mentioned; results and arguments are in it as
they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.errors import UsageError
from chimpbase._core.values import LoadedRun, StepMemo
from chimpbase._pg.db import Queryable
from chimpbase._store import run_queries, workflow_codes
from chimpbase._store.run_queries import PastRun

_FORMAT = 1
_MARK = "chimpbase_journal"
_TEXTS = ("input", "output", "result")


@dataclass(frozen=True, slots=True)
class Journal:
    """A run as it is written down, and what the code that last ran it mentioned, if that is known."""

    past: PastRun
    names: frozenset[str] | None


async def load_journal(connection: Queryable, *, id: str) -> Journal | None:
    """The journal of a run, or None when there is no such run."""
    past = await run_queries.load_past(connection, id=id)
    if past is None:
        return None
    code = past.run.code
    return Journal(past, None if code is None else await workflow_codes.find(connection, hash=code))


def write_journal(journal: Journal) -> str:
    """As a text of JSON, in lines."""
    past, run = journal.past, journal.past.run
    about = {
        "id": run.id,
        "workflow": run.workflow,
        "version": run.version,
        "state": past.state,
        "input": run.input,
        "output": past.output,
        "error": past.error,
        "started_at": run.started_at.isoformat(),
        "now": run.now.isoformat(),
        "seed": run.seed,
        "round": run.round,
        "cancel_reason": run.cancel_reason,
        "code": run.code,
    }
    steps = [_plain(msgspec.structs.asdict(memo)) for memo in run.steps.values()]
    names = None if journal.names is None else sorted(journal.names)
    whole = {_MARK: _FORMAT, "run": _plain(about), "steps": steps, "mentions": names}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def read_journal(text: str) -> Journal:
    """What `write_journal` wrote.

    Raises:
        UsageError: it is no journal, or of a format that this version does not know.
    """
    try:
        whole: Any = json.loads(text)
        found = whole[_MARK]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError("This is no journal of a run. Make one with `chimpbase workflow export ID`.") from error
    if found != _FORMAT:
        raise UsageError(f"This journal has format {found!r:.20}; this version of chimpbase reads format {_FORMAT}.")
    try:
        about: dict[str, Any] = {
            name: _text(value) if name in _TEXTS else value for name, value in whole["run"].items()
        }
        memos = [msgspec.convert(_memo(one), StepMemo) for one in whole["steps"]]
        run = LoadedRun(
            number=0,
            headers=None,
            steps={memo.key: memo for memo in memos},
            started_at=datetime.fromisoformat(about.pop("started_at")),
            now=datetime.fromisoformat(about.pop("now")),
            **{name: about[name] for name in about if name not in ("state", "output", "error")},
        )
        past = PastRun(run, about["state"], about.get("output"), about.get("error"))
        return Journal(past, None if whole["mentions"] is None else frozenset(whole["mentions"]))
    except (msgspec.ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"This journal is damaged: {error}. Export it again.") from error


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """JSON texts as what they say, instants as texts; what there is none of left out."""
    return {name: _value(name, value) for name, value in record.items() if value is not None}


def _value(name: str, value: Any) -> Any:
    if name in _TEXTS:
        return json.loads(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _memo(record: dict[str, Any]) -> dict[str, Any]:
    return {name: _text(value) if name in _TEXTS else value for name, value in record.items()}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
