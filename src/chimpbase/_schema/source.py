"""Sources: the migrations a program brings with it, read from a directory of `NNNN_verb_noun.sql` files.

Invariant: numbers run 1, 2, 3 ... without gap or double, and a checksum depends on the text alone, not on the line ends
a checkout gave it. Absent: the database. What it has applied is `migrate`'s business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable

from chimpbase._core.errors import ConfigError
from chimpbase._schema.script import Statement, split

OWN_SCOPE = "chimpbase"
APP_SCOPE = "app"

_FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9]+(_[a-z0-9]+)*\.sql")
_NO_TRANSACTION = re.compile(r"--\s*chimpbase:\s*no transaction\s*", re.IGNORECASE)
_TRANSACTION_VERBS = frozenset({"abort", "begin", "commit", "end", "rollback", "start"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered file. `checksum` is the SHA-256 of its text; `transactional` is False if its first line says so."""

    number: int
    file_name: str
    checksum: str
    transactional: bool
    text: str = field(repr=False)

    def statements(self) -> list[Statement]:
        """The statements in order.

        Raises:
            ConfigError: the file begins or ends a transaction itself, or carries inline `copy` data.
        """
        statements = split(self.text)
        for statement in statements:
            if statement.verb in _TRANSACTION_VERBS:
                raise ConfigError(
                    f"Migration {self.file_name}, line {statement.line}: `{statement.verb}` does not belong in a "
                    "migration, which is committed together with the note that it was applied. Remove it; for "
                    "statements that refuse a transaction make the first line `-- chimpbase: no transaction`."
                )
            if statement.verb == "copy" and re.search(r"\bstdin\b", statement.text, re.IGNORECASE):
                raise ConfigError(
                    f"Migration {self.file_name}, line {statement.line}: `copy ... from stdin` needs a client that "
                    "sends the rows. Use `insert` (pg_dump --inserts writes it)."
                )
        return statements


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSource:
    """Migrations in order of their numbers. `scope` keeps ours and the application's apart in the ledger."""

    scope: str
    origin: str
    migrations: tuple[Migration, ...]


def own_source() -> MigrationSource:
    """The migrations this package ships."""
    return read_source(files("chimpbase._schema") / "migrations", scope=OWN_SCOPE)


def read_source(directory: Traversable, *, scope: str = APP_SCOPE) -> MigrationSource:
    """Read the migrations of a directory (a `pathlib.Path` will do). Files that do not end in `.sql` are not looked at.

    Raises:
        ConfigError: no such directory, a name that is not `NNNN_verb_noun.sql`, a gap or a double in the numbers, a
            file that is not UTF-8.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"There is no directory {str(directory)!r} to read migrations from. Create it, or name the right one.",
            key="migrations",
            expected="a directory of NNNN_verb_noun.sql files",
        )
    entries = sorted((entry for entry in directory.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    source = MigrationSource(scope=scope, origin=str(directory), migrations=tuple(map(_read, entries)))
    _check_numbers(source.migrations, origin=source.origin)
    return source


def _read(entry: Traversable) -> Migration:
    name = _FILE_NAME.fullmatch(entry.name)
    if name is None:
        raise ConfigError(
            f"{str(entry)!r} has no name for a migration. Call it NNNN_verb_noun.sql, with four digits "
            "and lower-case words, such as 0001_create_orders.sql.",
            key="migrations",
            expected="NNNN_verb_noun.sql",
        )
    try:
        text = entry.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Migration {entry.name} is not UTF-8 (byte {error.start}). Save it as UTF-8.", key="migrations"
        ) from error
    # Git may check the same file out with other line ends: that is not an edit.
    text = text.replace("\r\n", "\n")
    first_line = text.partition("\n")[0]
    return Migration(
        number=int(name["number"]),
        file_name=entry.name,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        transactional=_NO_TRANSACTION.fullmatch(first_line) is None,
        text=text,
    )


def _check_numbers(migrations: Iterable[Migration], *, origin: str) -> None:
    previous: Migration | None = None
    for migration in migrations:
        wanted = previous.number + 1 if previous else 1
        if previous and migration.number == previous.number:
            raise ConfigError(
                f"Two migrations in {origin} have the number {migration.number:04}: {previous.file_name} and "
                f"{migration.file_name}. Renumber the one that no database has applied yet.",
                key="migrations",
            )
        if migration.number != wanted:
            raise ConfigError(
                f"Migration {wanted:04} is missing in {origin}: {migration.file_name} follows "
                f"{previous.file_name if previous else 'nothing'}. Bring the missing file back, or renumber.",
                key="migrations",
            )
        previous = migration
