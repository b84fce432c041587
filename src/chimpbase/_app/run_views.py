"""What is told of runs: what one is doing, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.errors import NotFound
from chimpbase._core.values import ENDED_STATES, RunState, RunStatus, StepKind, StepMemo


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run is doing. `waits` names the signals it waits for; `wake_at` is when it goes on by itself.

    `input`, `output`, `state` (what the code last showed as `wf.state`) and `attributes` are of JSON types. `output` is
    there when completed, `error` when it did not go well. `parent` is the id of the run that started it, `round` counts
    from 1 each time it was continued with another input. `capable` is how many live processes can run this version.
    """

    id: str
    workflow: str
    version: int
    status: RunState
    waits: tuple[str, ...]
    wake_at: datetime | None
    started_at: datetime
    finished_at: datetime | None
    input: Any
    output: Any
    error: str | None
    state: Any = None
    attributes: Any = None
    parent: str | None = None
    round: int = 1
    cancelling: str | None = None
    capable: int = 0

    @property
    def why(self) -> str:
        """Why it is where it is, in a sentence."""
        if self.status in ENDED_STATES:
            return f"{self.status}{f': {self.error}' if self.error else ''}"
        if self.capable == 0:
            return f"no live process can run {self.workflow} v{self.version}"
        until = f" until {self.wake_at.isoformat(timespec='seconds')}" if self.wake_at else ""
        match self.status:
            case "waiting":
                return f"waits for {', '.join(self.waits)}{until}"
            case "sleeping":
                return f"sleeps{until}"
            case "paused":
                return f"paused{f': {self.error}' if self.error else ''}; resume it"
            case _:
                return f"is being cancelled: {self.cancelling}" if self.cancelling else "is running, or about to"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """Something that a run has done. `input` is a step's arguments, when they are short, or what ended a wait.

    `kind` "retry" is a step whose last attempt failed and that will be tried again.
    """

    key: str
    kind: StepKind
    attempt: int
    started_at: datetime
    finished_at: datetime
    input: Any
    result: Any
    error: str | None


def run_of(id: str, status: RunStatus | None) -> Run:
    """A run as the user sees it.

    Raises:
        NotFound: there is none.
    """
    if status is None:
        raise NotFound("run", id)
    return Run(
        id=status.id,
        workflow=status.workflow,
        version=status.version,
        status=status.state,
        waits=status.waits,
        wake_at=status.wake_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        input=_value(status.input),
        output=_value(status.output),
        error=status.error,
        state=_value(status.view),
        attributes=_value(status.attributes),
        parent=status.parent,
        round=status.round,
        cancelling=status.cancel_reason,
        capable=status.capable,
    )


def entry_of(memo: StepMemo) -> HistoryEntry:
    """A row of the journal as the user sees it."""
    acts = memo.kind in ("step", "retry", "child", "callback")
    return HistoryEntry(
        key=memo.key,
        kind=memo.kind,
        attempt=memo.attempt,
        started_at=memo.started_at,
        finished_at=memo.finished_at,
        input=(_value(memo.detail) if memo.digest is not None else None) if acts else memo.detail,
        result=None if memo.kind == "retry" else _value(memo.result),
        error=memo.error,
    )


def _value(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
