"""Names: a file is called after the one thing in it."""

from __future__ import annotations

import re

from tests.house.checkout import files, name, python_files

VAGUE = {"base", "common", "helper", "helpers", "manager", "managers", "misc", "model", "models", "util", "utils"}
MIGRATION = re.compile(r"\d{4}(_[a-z0-9]+){2,}\.sql")


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [name(path) for path in files() if VAGUE & set(re.split(r"[_\W]+", path.stem.lower()))]
    assert vague == []


def test_no_directory_has_a_name_that_says_nothing() -> None:
    directories = {parent for path in python_files("src", "tests", "examples") for parent in path.parents}
    assert [str(path) for path in directories if path.name.lower() in VAGUE] == []


def test_migrations_are_numbered_verb_noun() -> None:
    wrong = [name(path) for path in files() if path.parent.name == "migrations" and not MIGRATION.fullmatch(path.name)]
    assert wrong == []
