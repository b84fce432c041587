"""Scripts: the text of a migration, cut into statements that know their line.

Invariant: the statements in order mean what the script means; quotes, parentheses and `begin atomic` bodies keep their
semicolons. Absent: psql's backslash commands and inline `copy` data, which are not SQL.
"""

from __future__ import annotations

from dataclasses import dataclass

from chimpbase._pg import lexer


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement without its semicolon. `line` is where it starts, counted from 1; `verb` its first word."""

    text: str
    line: int
    verb: str


def split(script: str) -> list[Statement]:
    """Cut a script into its statements. Comments between statements are left out; comments inside them stay."""
    statements: list[Statement] = []
    start: int | None = None
    verb = before = ""
    parentheses = blocks = 0
    for token in lexer.tokens(script):
        text = token[0].lower()
        if text == ";" and parentheses <= 0 and blocks <= 0:
            if start is not None:
                statements.append(_statement(script, start, token.start(), verb))
            start, verb, before, parentheses, blocks = None, "", "", 0, 0
            continue
        if start is None:
            start, verb = token.start(), text
        parentheses += (text == "(") - (text == ")")
        # The body of an SQL-standard function: `begin atomic ...; ...; end`, in which `case` has an `end` as well.
        if (text == "atomic" and before == "begin") or (text == "case" and blocks):
            blocks += 1
        elif text == "end" and blocks:
            blocks -= 1
        before = text
    if start is not None:
        statements.append(_statement(script, start, len(script), verb))
    return statements


def _statement(script: str, start: int, end: int, verb: str) -> Statement:
    return Statement(text=script[start:end].rstrip(), line=script.count("\n", 0, start) + 1, verb=verb)
