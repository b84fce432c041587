"""The child process of a crew: imports the handler's module, runs one errand after another, and asks for every verb.

It has no database of its own. Absent on purpose: an event loop, settings, a command line: its two arguments are the
numbers of its pipe and of its lifeline.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from multiprocessing.connection import Connection
from typing import Any, Final, Literal, cast

from chimpbase._app.definitions import Definition, OnBroadcast, Step, Subscription, Worker, Workflow
from chimpbase._app.origin import SyncRunningJob, running
from chimpbase._app.payload_reading import reader
from chimpbase._app.queue_names import queue_name
from chimpbase._app.run_handle import Handle, Steering
from chimpbase._app.tokens import Stream, Token
from chimpbase._core.errors import AttemptError, UsageError
from chimpbase._core.text import describe_exception


@dataclass(frozen=True, slots=True)
class Errand:
    """A job to run: where its handler is defined, and its payload and headers as JSON texts."""

    module: str
    file: str
    qualname: str
    payload: str
    headers: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """A collection or a namespace of keys; `typed` when it was given as its token, not by name."""

    name: str
    typed: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A workflow: by its name alone the highest version would be meant."""

    workflow: str
    number: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A step, or the token of a stream: by its name alone a stream would be one of any type."""

    kind: Literal["step", "stream"]
    name: str


@dataclass(frozen=True, slots=True)
class RunId:
    """The handle of a run, on its way to the child."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """Something the handler asks of its ctx: the names that lead to it from there, and what it is called with.

    In a `place` the first name leads to what has places, and the others go on from the place.
    """

    path: tuple[str, ...]
    called: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    value: Any


@dataclass(frozen=True, slots=True)
class Failure:
    error: BaseException

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error that can be brought over: itself if it can be pickled there and back, else its words."""
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301
        except Exception:
            return cls(AttemptError(f"{type(error).__name__}: {describe_exception(error)}"))
        return cls(error)


@dataclass(frozen=True, slots=True)
class Begun:
    """What the errand needs is imported; its handler begins."""


Line = Errand | Begun | Call | Answer | Failure
#: What of a ctx has places, and what their tokens are called in the registry.
PLACES: Final[Mapping[str, str]] = {"kv": "namespace", "collection": "collection"}


def storable(value: Any) -> Any:
    """A value as the other side can have it.

    Raises:
        UsageError: it cannot leave its process.
    """
    if isinstance(value, int) and type(value) not in (int, bool):
        value = int(value)  # a job's handle is its id there
    if isinstance(value, Handle):
        value = RunId(value.id)
    try:
        pickle.dumps(value)
    except Exception as error:
        raise UsageError(f"a {type(value).__name__} cannot leave its process: {error}") from error
    return value


class RemoteCtx:
    """The ctx of a handler in a child process: the verbs of `SyncCtx`, each asked for over the pipe."""

    def __init__(self, line: Connection, *, name: str) -> None:
        self._line, self._name = line, name
        self._logger = logging.getLogger(name)
        self._logger.setLevel(logging.DEBUG)  # what is too little for the log is left out by the parent
        self._logger.handlers, self._logger.propagate = [_Forward(self._ask)], False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("job", "idempotency_key", "trace_id"):
            answer = self._ask(Call((name,), called=False, args=(), kwargs={}))
            return running(SyncRunningJob, answer, self._progress) if name == "job" else answer
        return (_Places if name in PLACES else _Verbs)(self._ask, (name,))

    @property
    def log(self) -> logging.Logger:
        """A logger whose records are written by the parent, with the handler's name, the trace and the job."""
        return self._logger

    def on_commit(self, callback: Callable[[], None]) -> None:
        raise UsageError(f"{self._name} runs in a child process: on_commit could not call back there.")

    def _progress(self, fraction: float, note: str | None) -> None:
        self._ask(Call(("job", "progress"), called=True, args=(fraction, note), kwargs={}))

    def _ask(self, call: Call) -> Any:
        try:
            self._line.send(call)  # nothing of it has gone when it cannot be pickled
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            verb = ".".join(call.path)
            raise UsageError(f"ctx.{verb} was given what cannot leave its process: {error}") from error
        match self._line.recv():
            case Answer(value=RunId(text=id)):
                handle: Handle[Any] = Handle(cast("Steering", _Verbs(self._ask, ("workflow",))), id)
                return handle
            case Answer(value=value):
                return value
            case Failure(error=error):
                raise error
            case other:
                raise AssertionError(f"{other!r:.60} is no answer")


class _Verbs:
    def __init__(self, ask: Callable[[Call], Any], path: tuple[str, ...], place: Place | None = None) -> None:
        self._ask, self._path, self._place = ask, path, place

    def __getattr__(self, name: str) -> _Verbs:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Verbs(self._ask, (*self._path, name), self._place)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_named(value, self._path) for value in args)
        kwargs = {name: _named(value, self._path) for name, value in kwargs.items()}
        return self._ask(Call(self._path, called=True, args=args, kwargs=kwargs, place=self._place))


class _Places(_Verbs):
    """`ctx.kv` and `ctx.collection`: what they answer when they are called stays with the parent."""

    def __call__(self, place: Token[Any] | str) -> _Verbs:
        return _Verbs(self._ask, self._path, Place(_named(place, self._path), typed=isinstance(place, Token)))


class _Forward(logging.Handler):
    def __init__(self, ask: Callable[[Call], Any]) -> None:
        super().__init__()
        self._ask = ask

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._ask(Call(("log", "log"), called=True, args=(record.levelno, "%s", text), kwargs={}))


def _named(value: Any, path: tuple[str, ...]) -> Any:
    """Definitions and tokens travel by name: the parent knows them, and a function cannot be sent.

    By the name that the verb goes by: a subscription publishes its topic, is replayed under its own name, and its
    deliveries are a queue.
    """
    if isinstance(value, Handle):
        return value.id
    if not isinstance(value, Definition | Token):
        return value
    if path[0] == "queue":
        return queue_name(value)
    if isinstance(value, Workflow):
        return Version(value.name, value.version)
    if isinstance(value, Step):
        return Registered("step", value.name)
    if isinstance(value, Stream):
        return Registered("stream", value.name)
    if isinstance(value, Subscription | OnBroadcast) and path[-1] in ("publish", "broadcast"):
        return str(value.event.name)  # pyright: ignore[reportUnknownMemberType]
    return value.name


def main() -> None:
    """Run errands until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent says when to stop
    line = Connection(int(sys.argv[1]))
    threading.Thread(target=_follow, args=[int(sys.argv[2])], name="lifeline", daemon=True).start()
    while True:
        try:
            errand: Errand = line.recv()
        except EOFError:
            return
        line.send(_run(line, errand))


def _run(line: Connection, errand: Errand) -> Answer | Failure:
    try:
        definition = _find(errand)
        line.send(Begun())
        payload = reader(definition.queue)(errand.payload, errand.headers)
        return Answer(storable(definition.function(RemoteCtx(line, name=definition.name), payload)))
    except BaseException as error:  # SystemExit too: it ends the attempt, not the member
        error.add_note("".join(traceback.format_tb(error.__traceback__)[-5:]).rstrip())
        return Failure.of(error)


def _find(errand: Errand) -> Worker[Any, Any]:
    found = reduce(getattr, errand.qualname.split("."), _module(errand))
    if not isinstance(found, Worker):
        raise UsageError(
            f"{errand.qualname} of {errand.file} is {type(found).__name__} where a child process imports that file, "
            "not a worker."
        )
    return found  # pyright: ignore[reportUnknownVariableType]


def _module(errand: Errand) -> Any:
    if errand.module != "__main__":
        return importlib.import_module(errand.module)
    known = sys.modules.get("__mp_main__")
    if known is None:
        # under another name, so that what is under `if __name__ == "__main__"` does not run again
        spec = importlib.util.spec_from_file_location("__mp_main__", errand.file)
        assert spec is not None
        assert spec.loader is not None  # it is a file that Python has run before
        known = importlib.util.module_from_spec(spec)
        # under both names, so that its classes are found by whoever unpickles them
        sys.modules["__mp_main__"] = sys.modules["__main__"] = known
        spec.loader.exec_module(known)
    return known


def _follow(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)
