"""HTTP: actions, Starlette routes and whole ASGI applications, served by the same process that runs the workers.

An action is exposed by a route, which is registered like a definition. What a client sends fills its parameters; what
it returns is sent as JSON, after the commit. `/health` says that the process lives, `/ready` that it can work.
"""

from __future__ import annotations

from chimpbase.http.answers import HttpError
from chimpbase.http.asgi import Asgi, asgi
from chimpbase.http.routes import route
from chimpbase.http.scopes import runtime_of

__all__ = ["Asgi", "HttpError", "asgi", "route", "runtime_of"]
