"""Lexer: what can be told of an SQL statement from its text alone.

Invariant: comments, literals and quoted identifiers are never mistaken for code. Where the text cannot decide, the
answer is the careful one: "it may write", "it may commit".
Deliberately absent: a grammar. PostgreSQL is the only parser of SQL here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

# One match is one token; `skip` is text in which nothing is code. Block comments nest in PostgreSQL, which no regular
# expression can follow, so `_block_comment_end` takes over after their opening.
_TOKEN: Final = re.compile(
    r"""
      (?P<block>/\*)
    | (?P<skip>
          --[^\n]*
        | [eE]'(?:[^'\\]|\\.|'')*'
        | '(?:[^']|'')*'
        | "(?:[^"]|"")*"
        | (?<![\w$])\$(?P<tag>[^\W\d]\w*)?\$.*?\$(?(tag)(?P=tag))\$
      )
    | (?P<cast>::)
    | (?<!:):(?P<parameter>[A-Za-z_]\w*)
    | \$(?P<number>\d+)
    | (?P<word>[^\W\d][\w$]*(?:\s*\.\s*[^\W\d][\w$]*)*)
    | (?P<end>;)
    | (?P<open>\()
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE: Final = re.compile(r"/\*|\*/")

_READING: Final = frozenset({"select", "values", "table", "show", "with"})
_CONTROL: Final = frozenset({"begin", "start", "rollback", "abort", "savepoint", "release"})
_WRITING: Final = frozenset(
    {"insert", "update", "delete", "merge", "into", "call", "do", "truncate", "create", "alter", "drop", "copy", "lock"}
)
# Words that stand before a parenthesis without being a function.
_NOT_FUNCTIONS: Final = frozenset(
    {
        *("all", "and", "any", "array", "as", "between", "by", "case", "cube", "distinct", "else", "except", "exists"),
        *("filter", "from", "group", "having", "ilike", "in", "intersect", "is", "join", "lateral", "like", "limit"),
        *("materialized", "not", "offset", "on", "or", "order", "over", "recursive", "rollup", "row", "select", "sets"),
        *("some", "table", "then", "union", "using", "values", "when", "where", "with", "within"),
    }
)
# Functions that change nothing, by the names our statements and most reading statements use.
_PURE: Final = frozenset(
    {
        *(
            "abs",
            "array_agg",
            "array_length",
            "avg",
            "bool_and",
            "bool_or",
            "cardinality",
            "cast",
            "ceil",
            "char_length",
        ),
        *("clock_timestamp", "coalesce", "concat", "count", "current_setting", "date_trunc", "dense_rank", "encode"),
        *(
            "decode",
            "extract",
            "first_value",
            "floor",
            "format",
            "generate_series",
            "greatest",
            "json_agg",
            "json_build_object",
        ),
        *("jsonb_agg", "jsonb_array_elements", "jsonb_build_array", "jsonb_build_object", "jsonb_object_agg"),
        *(
            "jsonb_path_query",
            "jsonb_typeof",
            "lag",
            "last_value",
            "lead",
            "least",
            "left",
            "length",
            "lower",
            "make_interval",
        ),
        *(
            "max",
            "md5",
            "min",
            "mod",
            "now",
            "nullif",
            "octet_length",
            "percentile_cont",
            "position",
            "rank",
            "replace",
        ),
        *(
            "right",
            "round",
            "row_number",
            "row_to_json",
            "starts_with",
            "statement_timestamp",
            "string_agg",
            "substring",
        ),
        *(
            "substr",
            "sum",
            "timezone",
            "to_char",
            "to_json",
            "to_jsonb",
            "to_timestamp",
            "trim",
            "trunc",
            "unnest",
            "upper",
        ),
        *(
            "version",
            "pg_backend_pid",
            "pg_current_snapshot",
            "pg_is_in_recovery",
            "pg_sleep",
            "pg_snapshot_xmax",
            "pg_snapshot_xmin",
        ),
        *("pg_visible_in_snapshot", "chimpbase.clock"),
    }
)
_NAMING: Final = frozenset({"as", "with", "recursive"})
_ENDING: Final = frozenset({"commit", "end", "prepare"})
_WORD_GAP: Final = re.compile(r"\s+")
_LASTING: Final = re.compile(
    r"""
    \b (?: set_config \s* \( (?! [^()]* , \s* true \s* \) ) | pg_(?:try_)?advisory_lock )
    | \A (?: \s | --[^\n]*\n | /\*.*?\*/ )*
      (?: set \b (?! \s+ (?: local | transaction | constraints ) \b )
        | (?: reset | do | call | load | listen | declare ) \b
        | create \s+ (?: local \s+ | global \s+ )? temp )
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def tokens(sql: str) -> Iterator[re.Match[str]]:
    """The tokens of `sql` with comments, literals and quoted identifiers left out; whitespace is left out too."""
    place = 0
    while match := _TOKEN.match(sql, place):
        place = match.end()
        if match["block"]:
            place = _block_comment_end(sql, place)
        elif not match["skip"] and not match["space"]:
            yield match


def only_reads(sql: str) -> bool:
    """Whether `sql` is one statement that certainly commits no change, so that running it twice is running it once."""
    first, earlier, before = True, "", ""
    for token in tokens(sql):
        word = _WORD_GAP.sub("", token["word"]).lower() if token["word"] else ""
        if before == ";" or word in _WRITING or (first and word not in _READING and word not in _CONTROL):
            return False
        if token["open"] and before and not _is_harmless(before, after=earlier):
            return False
        first, earlier, before = False, before, ";" if token["end"] else word
    return not first


def may_commit(sql: str) -> bool:
    """Whether `sql` is, or contains, a statement that ends its transaction by committing it."""
    at_start = True
    for token in tokens(sql):
        if at_start and token["word"] and token["word"].lower() in _ENDING:
            return True
        at_start = bool(token["end"])
    return False


@lru_cache(maxsize=1024)
def may_last(sql: str) -> bool:
    """Whether `sql` may change something of its session that outlives the transaction: a setting, a role, a lock.

    Functions of others are not looked into; `set local` and `set_config(..., true)` end with their transaction.
    """
    return _LASTING.search(sql) is not None


def label(sql: str) -> str:
    """A few words that name the statement in an error: its `/* shelf.name */` comment, or how it begins."""
    if sql.startswith("/* ") and (end := sql.find(" */", 3, 100)) > 0:
        return sql[3:end]
    start = _WORD_GAP.sub(" ", sql[:200]).strip()
    return f"`{start[:60]}...`" if len(start) > 60 else f"`{start}`"


def _is_harmless(word: str, *, after: str) -> bool:
    """Whether `word (` calls nothing that could write; after `as` or `with` the word is a name being given."""
    return word in _PURE or word in _NOT_FUNCTIONS or after in _NAMING


def _block_comment_end(sql: str, place: int) -> int:
    depth = 1
    while depth and (edge := _BLOCK_EDGE.search(sql, place)):
        depth += 1 if edge[0] == "/*" else -1
        place = edge.end()
    return place if depth == 0 else len(sql)
