"""Options that several commands take: the same name, the same meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter, Token


def whole(type_: object, tokens: Sequence[Token]) -> int:
    """Read a whole number: "1.5" is none, and not 2.

    Raises:
        ValueError: it is none.
    """
    return int(tokens[0].value)


#: The app, as the first argument or as `--app`.
AppName = Annotated[
    str | None,
    Parameter(
        name=("--app",),
        help="The app: file.py, file.py:name, module or module:name. Without it CHIMPBASE_APP, then app in "
        "[tool.chimpbase] of pyproject.toml, then app.py or main.py.",
    ),
]
Host = Annotated[str | None, Parameter(help="The address HTTP listens on. Default: the setting host, 127.0.0.1.")]
Port = Annotated[
    int | None,
    Parameter(converter=whole, help="The port HTTP listens on; 0 takes a free one. Default: the setting port, 8000."),
]
Http = Annotated[bool, Parameter(negative="--no-http", show_default=False, help="Serve HTTP.")]
Workers = Annotated[
    bool, Parameter(negative="--no-workers", show_default=False, help="Run workers, subscriptions, cron and workflows.")
]
Grace = Annotated[str | None, Parameter(help="How long a stop lets running jobs finish, such as 10s.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"] | None, Parameter(help="The least level logged.")
]
LogFormat = Annotated[
    Literal["auto", "text", "json"] | None, Parameter(help="Log lines as text or JSON; auto is text on a terminal.")
]
Output = Annotated[Literal["table", "json"], Parameter(name=("--output", "-o"), help="A table to read, or JSON.")]


def given(**settings: object) -> dict[str, object]:
    """The settings that were given on the command line; the others keep their sources."""
    return {name: value for name, value in settings.items() if value is not None}
