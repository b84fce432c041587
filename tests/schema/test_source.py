from __future__ import annotations

from pathlib import Path

import pytest

from chimpbase._core.errors import ConfigError
from chimpbase._schema.source import own_source, read_source


def _write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.sql").write_text(text, encoding="utf-8")
    return directory


def test_files_are_read_in_order_of_their_numbers(tmp_path: Path) -> None:
    source = read_source(_write(tmp_path, **{"0002_add_b": "select 2", "0001_add_a": "select 1"}))
    assert [(migration.number, migration.file_name) for migration in source.migrations] == [
        (1, "0001_add_a.sql"),
        (2, "0002_add_b.sql"),
    ]
    assert source.scope == "app"


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    assert read_source(tmp_path).migrations == ()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory .*nowhere"):
        read_source(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["1_add_a", "0001", "0001_Add_a", "0001-add-a", "00001_add_a", "add_a"])
def test_a_name_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="NNNN_verb_noun"):
        read_source(_write(tmp_path, **{name: "select 1"}))


def test_a_gap_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0002 is missing .* 0003_add_c.sql follows 0001_add_a.sql"):
        read_source(_write(tmp_path, **{"0001_add_a": "", "0003_add_c": ""}))


def test_the_first_number_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0001 is missing"):
        read_source(_write(tmp_path, **{"0002_add_b": ""}))


def test_a_number_used_twice_is_refused_with_both_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0001_add_a.sql and 0001_add_b.sql"):
        read_source(_write(tmp_path, **{"0001_add_a": "", "0001_add_b": ""}))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_add_a.sql").write_bytes(b"select '\xe9'")
    with pytest.raises(ConfigError, match=r"0001_add_a.sql is not UTF-8 \(byte 8\)"):
        read_source(tmp_path)


def test_line_ends_and_byte_order_mark_do_not_change_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "0001_add_a.sql"
    path.write_bytes(b"select 1;\nselect 2;\n")
    plain = read_source(tmp_path).migrations[0].checksum
    path.write_bytes(b"\xef\xbb\xbfselect 1;\r\nselect 2;\r\n")
    assert read_source(tmp_path).migrations[0].checksum == plain
    path.write_bytes(b"select 1;\nselect  2;\n")
    assert read_source(tmp_path).migrations[0].checksum != plain


@pytest.mark.parametrize(
    ("first_line", "transactional"),
    [
        ("-- chimpbase: no transaction", False),
        ("--chimpbase:no transaction  ", False),
        ("-- Add a column.", True),
        ("select 1; -- chimpbase: no transaction", True),
        ("\n-- chimpbase: no transaction", True),
    ],
)
def test_the_first_line_alone_says_whether_it_is_a_transaction(
    tmp_path: Path, first_line: str, *, transactional: bool
) -> None:
    source = read_source(_write(tmp_path, **{"0001_add_a": f"{first_line}\nselect 1;"}))
    assert source.migrations[0].transactional is transactional


@pytest.mark.parametrize("verb", ["begin", "START TRANSACTION", "commit", "end", "rollback", "abort"])
def test_a_file_that_controls_its_transaction_is_refused(tmp_path: Path, verb: str) -> None:
    source = read_source(_write(tmp_path, **{"0001_add_a": f"select 1;\n\n{verb};"}))
    with pytest.raises(ConfigError, match="0001_add_a.sql, line 3: `(begin|start|commit|end|rollback|abort)` does"):
        source.migrations[0].statements()


def test_inline_copy_data_is_refused(tmp_path: Path) -> None:
    source = read_source(_write(tmp_path, **{"0001_add_a": "copy t (a) from stdin;\n1\n\\.\n"}))
    with pytest.raises(ConfigError, match="line 1: .*--inserts"):
        source.migrations[0].statements()


def test_our_own_migrations_are_sound() -> None:
    source = own_source()
    assert source.scope == "chimpbase"
    assert source.migrations
    assert all(migration.statements() for migration in source.migrations)
