"""Every error this package raises, in one tree whose branches answer "who must act?".

    ChimpbaseError
    ├── UsageError            the program is wrong
    │   ├── AlreadyRegistered
    │   ├── NotRegistered
    │   ├── NotStarted
    │   └── PayloadError
    ├── ConfigError           a setting is wrong
    ├── DatabaseError         the database refused or could not be reached
    │   ├── Unreachable
    │   ├── StatementTimeout
    │   ├── OutcomeUnknown
    │   ├── StorageFull
    │   ├── SerializationConflict
    │   ├── ConstraintViolation
    │   │   ├── UniqueViolation
    │   │   ├── ForeignKeyViolation
    │   │   ├── NotNullViolation
    │   │   └── CheckViolation
    │   ├── QueryError
    │   └── SchemaError
    │       ├── SchemaOutdated
    │       └── SchemaTooNew
    ├── NotFound              it does not exist
    ├── Conflict              someone was first
    │   ├── AlreadyEnqueued
    │   ├── AlreadyStarted
    │   ├── EntriesDropped
    │   ├── LockLost
    │   ├── NotUnique
    │   ├── WrongState
    │   └── WrongVersion
    └── AttemptError          one attempt ended badly; it is stored, nobody need act
        ├── AttemptTimeout
        ├── JobCancelled
        ├── JobExpired
        ├── JobFailed
        ├── LeaseLost
        ├── ProcessLost
        ├── StepFailed
        ├── UpdateRefused
        ├── WorkflowFailed
        └── NondeterministicWorkflow

A message is fact, values, next move. Data is in attributes, never only in the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ChimpbaseError(Exception):
    """The root of every error this package raises on purpose. Each can be pickled, and so leave its process."""

    def __reduce__(self) -> tuple[object, ...]:
        # by what it holds: what its `__init__` takes is something else
        return _rebuild, (type(self), self.args), self.__dict__


class UsageError(ChimpbaseError):
    """The program is wrong: a definition, a call or a payload. Retrying cannot help."""


class AlreadyRegistered(UsageError):
    """Two definitions of one kind claim the same name."""


class NotRegistered(UsageError):
    """No definition of that kind has this name.

    `kind` is the word of the thing looked for ("queue", "event"), `name` what was asked for, `nearest` the registered
    name that looks most like it, or None.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), *, advice: str | None = None) -> None:
        names = sorted(set(known))
        close = get_close_matches(name, names, n=1, cutoff=0.5)
        self.kind, self.name = kind, name
        self.nearest: str | None = close[0] if close else None
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else "."
        registered = f" Registered: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}." if names else ""
        article = "an" if kind[0] in "aeiou" else "a"
        move = advice or f"Register {article} {kind} of that name with App(register=[...])."
        super().__init__(f"No {kind} named {name!r} is registered{hint}{registered} {move}")


class NotStarted(UsageError):
    """The app was asked to work outside `async with app.running()`."""


class PayloadError(UsageError):
    """A value does not fit the type it was declared with, or cannot be stored.

    `path` is the JSON path of the offending value (`$` for the whole), `reason` the sentence without the path.
    """

    def __init__(self, reason: str, *, path: str = "$", subject: str | None = None) -> None:
        self.reason, self.path, self.subject = reason, path, subject
        where = f"{subject}: " if subject else ""
        super().__init__(f"{where}{reason} - at `{path}`")


class ConfigError(ChimpbaseError):
    """A setting is wrong or missing. `key` names it, `expected` says what it should look like."""

    def __init__(self, message: str, *, key: str | None = None, expected: str | None = None) -> None:
        self.key, self.expected = key, expected
        super().__init__(message)


class DatabaseError(ChimpbaseError):
    """The database refused a statement or could not be reached; `__cause__` is the driver's own error.

    Neither text repeats a value that was given or stored: it may be a secret, and both are in every traceback.
    `sqlstate` is PostgreSQL's five characters, or None when the server never answered. `transient` tells that the same
    work may succeed when it is tried again in a new transaction.
    """

    transient: bool = False

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


class Unreachable(DatabaseError):
    """No connection: the server is down, starting, shutting down, read-only, or refuses us for now."""

    transient = True


class StatementTimeout(DatabaseError):
    """A statement outlived its budget, or waited too long for a lock. Its transaction is gone."""

    transient = True


class OutcomeUnknown(DatabaseError):
    """The connection died during COMMIT: the transaction is committed or not, and nobody can tell from here.

    Repeat the work only with something that makes it idempotent, such as a unique key.
    """


class StorageFull(DatabaseError):
    """The server has no disk, memory or connections left for this statement. Nothing was stored."""

    transient = True


class SerializationConflict(DatabaseError):
    """A deadlock or a serialization failure: PostgreSQL chose this transaction to be repeated."""

    transient = True


class ConstraintViolation(DatabaseError):
    """A row breaks a constraint; `constraint` and `table` name it, `detail` is the server's sentence."""

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        detail: str | None = None,
    ) -> None:
        self.constraint, self.table, self.detail = constraint, table, detail
        super().__init__(message, sqlstate=sqlstate)


class UniqueViolation(ConstraintViolation):
    """A row with that key is already there."""


class ForeignKeyViolation(ConstraintViolation):
    """A row refers to one that is not there, or is still referred to."""


class NotNullViolation(ConstraintViolation):
    """A column that must have a value got none."""


class CheckViolation(ConstraintViolation):
    """A row fails a CHECK or an exclusion constraint."""


class QueryError(DatabaseError):
    """The statement itself is wrong: syntax, types, a missing table, a bad value. Retrying cannot help."""


class SchemaError(DatabaseError):
    """The schema in the database and this code do not fit."""


class SchemaOutdated(SchemaError):
    """The database is older than the code, or a migration it holds was edited. Run `chimpbase migrate`."""


class SchemaTooNew(SchemaError):
    """The database was migrated by newer code than this. Deploy that code, or newer."""


class NotFound(ChimpbaseError):
    """Nothing with that id; `kind` and `id` say what was looked for."""

    def __init__(self, kind: str, id: object) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"No {kind} with id {id!r}.")


class Conflict(ChimpbaseError):
    """Someone was first, or the thing is past the state this needs."""


class AlreadyEnqueued(Conflict):
    """A job that is the same is there, where that was to be an error; `existing` is its id.

    None when it would have been one of the same call. With an idempotency key: a job has it whose payload is another.
    """

    def __init__(self, existing: int | None) -> None:
        self.existing = existing
        told = "Two of these jobs are the same" if existing is None else f"Job {existing} is there already"
        super().__init__(f"{told}. Use another unique or idempotency key, or on_conflict='skip'.")


class AlreadyStarted(Conflict):
    """A workflow run with that id exists; `id` is the id."""

    def __init__(self, workflow: str, id: str) -> None:
        self.workflow, self.id = workflow, id
        super().__init__(f"A run of workflow {workflow!r} with id {id!r} exists. Use another id, or signal that run.")


class LockLost(Conflict):
    """A lock ran out while it was held, and may be somebody else's; `name` and `fence` are those it was held under."""

    def __init__(self, name: str, fence: int) -> None:
        self.name, self.fence = name, fence
        super().__init__(f"Lock {name!r} was lost under fence {fence}. Give it a longer ttl, or do less under it.")


class NotUnique(Conflict):
    """Another document has what only one may have; `collection` and `what` say where and what."""

    def __init__(self, collection: str, what: str) -> None:
        self.collection, self.what = collection, what
        super().__init__(f"A document of collection {collection!r} with {what} is there already.")


class WrongState(Conflict):
    """The thing exists but is in `state`, and the call needs it to be `wanted`."""

    def __init__(self, message: str, *, state: str, wanted: str) -> None:
        self.state, self.wanted = state, wanted
        super().__init__(message)


class WrongVersion(Conflict):
    """The stream is at version `found`, and the append expected it to be at `expected`. Nothing was appended."""

    def __init__(self, stream: str, *, expected: int, found: int) -> None:
        self.stream, self.expected, self.found = stream, expected, found
        super().__init__(
            f"Stream {stream!r} is at version {found}, not {expected}: someone else appended to it. Read what is new, "
            "decide again, and append with the new version."
        )


class EntriesDropped(Conflict):
    """Entries that this reader has not read are gone, because the stream's retention is over for them.

    `stream` is the stream's name, `horizon` the highest id that is gone.
    """

    def __init__(self, stream: str, *, horizon: int) -> None:
        self.stream, self.horizon = stream, horizon
        super().__init__(
            f"Stream {stream!r} has dropped entries up to id {horizon} that were not read from this position. Read on "
            "without a position to begin with the oldest that are left, or keep entries for longer."
        )


class AttemptError(ChimpbaseError):
    """One attempt ended badly. It is stored with the job or run; the retry policy decides what follows."""


class AttemptTimeout(AttemptError):
    """The attempt ran longer than its `timeout`."""


class JobCancelled(AttemptError):
    """The job awaited for was cancelled; `id` is its id, `reason` what was said about it, or None."""

    def __init__(self, id: int, reason: str | None) -> None:
        self.id, self.reason = id, reason
        super().__init__(f"Job {id} was cancelled{f': {reason}' if reason else '.'}")


class JobExpired(AttemptError):
    """The job's `not_after` had passed when a worker took it. It was not begun and is a dead letter now."""


class JobFailed(AttemptError):
    """The job awaited for is a dead letter; `id` is its id, `reason` why it died, `error` its last error, or None."""

    def __init__(self, id: int, reason: str, error: str | None) -> None:
        self.id, self.reason, self.error = id, reason, error
        super().__init__(f"Job {id} is a dead letter ({reason}){f': {error}' if error else '.'}")


class LeaseLost(AttemptError):
    """This process lost the right to the job while it ran; its transaction was rolled back."""


class ProcessLost(AttemptError):
    """The process that ran the attempt stopped giving signs of life."""


class StepFailed(AttemptError):
    """A workflow step used up its attempts; `step` is its key in the journal."""

    def __init__(self, step: str, message: str) -> None:
        self.step = step
        super().__init__(message)


class UpdateRefused(AttemptError):
    """A running workflow refused an update, or failed while it applied it; `update` is the update's name."""

    def __init__(self, id: str, update: str, reason: str) -> None:
        self.id, self.update, self.reason = id, update, reason
        super().__init__(f"Run {id!r} refused update {update!r}: {reason}")


class WorkflowFailed(AttemptError):
    """The run awaited for did not complete; `id` is the run's id, `reason` its recorded error, `state` how it ended."""

    def __init__(self, id: str, reason: str, *, state: str = "failed") -> None:
        self.id, self.reason, self.state = id, reason, state
        verb = {"blocked": "is blocked", "cancelled": "was cancelled"}.get(state, "failed")
        super().__init__(f"Workflow run {id!r} {verb}: {reason}")


class NondeterministicWorkflow(AttemptError):
    """The workflow's code does not fit its journal; `expected` and `found` are step keys."""

    def __init__(self, message: str, *, expected: str | None = None, found: str | None = None) -> None:
        self.expected, self.found = expected, found
        super().__init__(message)


def _rebuild(error: type[ChimpbaseError], args: tuple[object, ...]) -> ChimpbaseError:
    return error.__new__(error, *args)
