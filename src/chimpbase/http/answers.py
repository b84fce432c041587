"""Answers: what a client is told, and with which status, when a request is not carried out.

One table decides. Invariant: an answer to an error that is not the client's says nothing of the inside: no SQL, no name
of a host, no text of an exception. Whoever operates the server finds it all in the log, under the trace of the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from chimpbase import errors
from chimpbase.http.scopes import shown_path, state_of

_log = logging.getLogger("chimpbase.http")

_AGAIN = {"retry-after": "1"}
_CLOSE = {"connection": "close"}
_CLIENT_LEFT = 499  # never sent: there is nobody to send it to; it is for the log
_INTERNAL = "The server failed to carry out this request. The log has the reason under this trace."
_UNKNOWN = (
    "The connection to the database was lost during the commit: this request was carried out or it was not. "
    "Look before you repeat it."
)

#: Errors of the database that a client may see: their own text names hosts and rows.
_SENTENCES: tuple[tuple[type[errors.ChimpbaseError], int, str, Mapping[str, str]], ...] = (
    (errors.UniqueViolation, 409, "Something with the same key exists already.", {}),
    (
        errors.OutcomeUnknown,
        503,
        _UNKNOWN,
        {},
    ),
    (errors.Unreachable, 503, "The database is busy or cannot be reached. Nothing was stored; try again.", _AGAIN),
    (errors.StorageFull, 503, "The database has no room left. Nothing was stored; try again later.", _AGAIN),
    (errors.StatementTimeout, 503, "The database did not answer in time. Nothing was stored; try again.", _AGAIN),
    (errors.SerializationConflict, 503, "Another request was in the way. Nothing was stored; try again.", _AGAIN),
)


class HttpError(HTTPException):
    """Raise it in an action or a route to answer with that status, and `message` as the text of the error.

    In an action the transaction is rolled back, as it is for every exception. `status` is from 400 to 599.
    """

    def __init__(self, status: int, message: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise errors.UsageError(
                f"HttpError is for a status from 400 to 599, not {status}. Return a result instead."
            )
        super().__init__(status, message, headers)

    def __str__(self) -> str:
        return f"{self.status_code} {self.detail}"


class Refusal(HttpError):
    """This request cannot be understood: `kind` is the type in the answer, `path` the JSON path of what is wrong.

    `place` is where that path starts: the body, the query or the path of the URL.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        path: str | None = None,
        place: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.path, self.place = kind, path, place
        super().__init__(status, message, headers=headers)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response of builtins."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def error_response(
    status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None, **more: str | None
) -> Response:
    """The one form of every error: `{"error": {"type": ..., "message": ..., ...}}`."""
    given = {name: value for name, value in more.items() if value is not None}
    return json_response({"error": {"type": kind, "message": message, **given}}, status=status, headers=headers)


def overloaded() -> Response:
    """The answer to one request too many."""
    return error_response(503, "Overloaded", "The server is at its limit. Nothing was done; try again.", headers=_AGAIN)


def stopped() -> Response:
    """The answer to a request that the stop of the server interrupted."""
    message = "The server stopped during this request: it was carried out or it was not. Look before you repeat it."
    return error_response(503, "Stopped", message, headers=_CLOSE)


async def answer_http_exception(request: Request | WebSocket, error: Exception) -> Response:
    """Answer what a handler or the router raised with a status of its own."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        more = {"path": error.path, "in": error.place}
        return error_response(error.status_code, error.kind, error.detail, headers=error.headers, **more)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(method.strip() for method in headers["Allow"].split(",")))
    if error.status_code == 413:
        headers |= _CLOSE  # else the rest of that body is still to come
    return error_response(error.status_code, _kind(error.status_code), _message(request, error), headers=headers)


async def answer_error(request: Request | WebSocket, error: Exception) -> Response:
    """Answer anything else, and log it when the fault is here."""
    if isinstance(error, ClientDisconnect):
        if state_of(request.scope).get("slow"):
            return error_response(408, "Timeout", "The body came too slowly.", headers=_CLOSE)
        return Response(status_code=_CLIENT_LEFT)
    for kind, status, sentence, headers in _SENTENCES:
        if isinstance(error, kind):
            if isinstance(error, errors.OutcomeUnknown):
                _report(request, error, level=logging.WARNING)
            return error_response(status, kind.__name__, sentence, headers=headers)
    match error:
        case errors.NotFound() if error.kind != "secret":
            return error_response(404, "NotFound", str(error))
        case errors.Conflict():
            return error_response(409, type(error).__name__, str(error))
        case _:
            _report(request, error, level=logging.ERROR)
            return error_response(500, "InternalError", _INTERNAL, trace=state_of(request.scope).get("trace_id"))


def reason_not_ready(error: BaseException | None) -> str:
    """Why `/ready` says no, in words for whoever runs the load balancer."""
    match error:
        case None | TimeoutError() | asyncio.CancelledError() | errors.StatementTimeout():
            return "The database does not answer in time."
        case errors.SchemaError():
            return "The schema of the database does not fit this code. Run `chimpbase migrate`, or deploy what fits."
        case errors.Unreachable():
            return "The database is busy or cannot be reached."
        case _:
            return "The check of the database failed; the log has the reason."


def _message(request: Request | WebSocket, error: HTTPException) -> str:
    path = shown_path(request.scope)
    match error.status_code:
        case 404 if error.detail == HTTPStatus.NOT_FOUND.phrase:
            return f"There is nothing at {path}."
        case 405:
            return f"{request.scope.get('method', 'This method')} is not allowed at {path}."
        case _:
            return error.detail


def _kind(status: int) -> str:
    try:
        words = HTTPStatus(status).phrase.replace("-", " ").replace("'", "").split()
    except ValueError:
        return "HttpError"
    return "".join(word[:1].upper() + word[1:] for word in words)


def _report(request: Request | WebSocket, error: Exception, *, level: int) -> None:
    scope = request.scope
    trace = state_of(scope).get("trace_id")
    _log.log(
        level,
        "%s %s failed: %s",
        scope.get("method", "WS"),
        shown_path(scope),
        type(error).__name__,
        exc_info=error,
        extra={"data": {"trace": trace}},
    )
