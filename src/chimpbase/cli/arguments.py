"""Arguments of an action from the command line: `key=text` and `key:=json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

from chimpbase import errors
from chimpbase._app.admin import REQUIRED
from chimpbase._app.definitions import Action
from chimpbase.cli.failures import USAGE, CommandFailed
from chimpbase.cli.listing import signature

_ARGUMENT = re.compile(r"(?P<key>[^=:\s]+)(?P<raw>:?)=(?P<value>.*)", re.DOTALL)


def read_arguments(action: Action[..., Any], words: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the words say, as the action's types want it.

    Raises:
        CommandFailed: a word is no argument, or does not fit; it ends in the action's signature.
    """
    given = _members(action, words)
    parameters = action.parameters
    body = parameters.body
    value: object = given
    if body is not None:
        known = _fields(body.codec.schema())
        if given.keys() == {body.name} and body.name not in (known or ()):
            value = given[body.name]
        else:
            _check_fields(action, given, known)
            # nothing at all is "use the default", as an empty body of a request is
            value = given or (None if body.default is not REQUIRED else given)
    try:
        return parameters.from_builtins(value, subject=f"action {action.name!r}", lax=True, extra="refuse")
    except errors.PayloadError as error:
        raise _refused(action, str(error)) from None


def _members(action: Action[..., Any], words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        match = _ARGUMENT.fullmatch(word)
        if match is None:
            raise _refused(action, f"{word!r:.80} is no argument. Write key=text or key:=json.")
        if match["key"] in given:
            raise _refused(
                action, f"{match['key']!r:.80} is given twice. Give it once, a list as {match['key']}:='[...]'."
            )
        given[match["key"]] = _json(action, match["key"], match["value"]) if match["raw"] else match["value"]
    return given


def _json(action: Action[..., Any], key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _refused(
            action, f"{key}:={text:.60} is not JSON: {error}. Quote it for the shell, or write {key}=text."
        ) from None


def _check_fields(action: Action[..., Any], given: Mapping[str, Any], known: Sequence[str] | None) -> None:
    """Refuse a key that no field is called: stored payloads may hold unknown fields, but a typed one is a slip."""
    for key in given:
        if known is not None and key not in known:
            close = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known) or 'none'}"
            raise _refused(action, f"{action.name!r} takes no {key!r:.60}; {hint} - at `$.{key}`")


def _fields(schema: Mapping[str, Any]) -> list[str] | None:
    """The names of an object's fields; None when it takes any."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        schema = cast("Mapping[str, Any]", schema.get("$defs", {})).get(reference.rpartition("/")[2], {})
    properties = schema.get("properties")
    return list(cast("Mapping[str, Any]", properties)) if isinstance(properties, Mapping) else None


def _refused(action: Action[..., Any], reason: str) -> CommandFailed:
    return CommandFailed(f"{reason}\n  {action.name}{signature(action)}", code=USAGE)
