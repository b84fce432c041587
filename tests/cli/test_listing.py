"""`ls` and finding the app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chimpbase.cli.discovery import find_target
from chimpbase.cli.failures import CommandFailed
from tests.cli.command import APP, chimpbase


def test_ls_shows_each_registration_with_its_place(project: Path) -> None:
    shown = chimpbase("ls", cwd=project)
    lines = {tuple(line.split()[:2]): line for line in shown.stdout.splitlines()}
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "(new: New) -> New" in lines["action", "place"]
    assert "(first: int, second: int = 1) -> int" in lines["action", "add"]
    assert "queue slow of float, 20 attempts" in lines["worker", "slow"]
    assert "09:00" in lines["cron", "report"]
    assert "(Europe/Lisbon); next 2" in lines["cron", "report"]
    assert ("workflow", "checkout@2") in lines
    assert "-> word" in lines["route", "GET"]
    line = 1 + APP.splitlines().index("async def add(ctx: Ctx, first: int, second: int = 1) -> int:")
    assert lines["action", "add"].endswith(f"app.py:{line - 1}")


def test_ls_as_json_is_one_list(project: Path) -> None:
    shown = chimpbase("ls", "app.py:app", "-o", "json", cwd=project)
    entries = json.loads(shown.stdout)
    assert {entry["kind"] for entry in entries} == {"action", "worker", "cron", "workflow", "route"}
    assert all(entry["place"].startswith(str(project / "app.py")) for entry in entries)


@pytest.mark.parametrize(
    ("given", "source", "sentence"),
    [
        ("ap.py", APP, "There is no file ap.py. Did you mean app.py?"),
        ("shop:app", APP, "There is no module 'shop'"),
        ("app:application", APP, "'application' does not exist. The apps in app are: app."),
        ("app.py:add", APP, "'add' is Action, not an App"),
        ("app.py", "x = 1", "app.py holds no App. Write"),
        ("app.py", "from chimpbase import App\na = App('a')\nb = App('b')", "Name one of them: app.py:a, app.py:b."),
    ],
)
def test_an_app_that_is_not_there_is_not_found(given: str, source: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(source)
    refused = chimpbase("ls", given, cwd=tmp_path)
    assert refused.returncode == 3
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


def test_nothing_named_and_nothing_found_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("")
    refused = chimpbase("ls", cwd=tmp_path)
    assert refused.returncode == 3
    assert "The Python files here are: shop.py." in refused.stderr
    assert "CHIMPBASE_APP" in refused.stderr


def test_an_error_in_the_app_shows_the_frames_of_the_app(tmp_path: Path) -> None:
    (tmp_path / "helper_of_app.py").write_text("def work():\n    return 1 / 0\n")
    (tmp_path / "app.py").write_text("import helper_of_app\nhelper_of_app.work()\n")
    refused = chimpbase("ls", cwd=tmp_path)
    assert refused.returncode == 1
    assert "ZeroDivisionError: division by zero" in refused.stderr
    assert refused.stderr.count('  File "') == 2
    assert "importlib" not in refused.stderr


def test_debug_shows_every_frame(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0\n")
    for words, env in ((["ls", "--debug"], {}), (["ls"], {"CHIMPBASE_DEBUG": "1"})):
        refused = chimpbase(*words, cwd=tmp_path, env=env)
        assert "chimpbase/cli/discovery.py" in refused.stderr


def test_a_mistake_in_a_definition_is_a_sentence_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from chimpbase import App, Ctx, action\n@action\ndef greet(ctx: Ctx) -> None: ...\napp = App('a', [greet])\n"
    )
    refused = chimpbase("ls", cwd=tmp_path)
    assert refused.returncode == 1
    assert "app.py:2)" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_program_that_exits_when_imported_is_explained(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit(4)\n")
    refused = chimpbase("ls", cwd=tmp_path)
    assert refused.returncode == 1
    assert "called sys.exit(4) while it was imported" in refused.stderr


def test_the_order_is_argument_environment_pyproject_default(tmp_path: Path) -> None:
    for name in ("given.py", "environ.py", "project.py", "main.py"):
        (tmp_path / name).write_text("")

    def found(given: str | None, environ: dict[str, str]) -> str:
        return find_target(given, environ=environ, directory=tmp_path).module

    assert found(None, {}) == "main"
    (tmp_path / "pyproject.toml").write_text('[tool.chimpbase]\napp = "project.py"\n')
    assert found(None, {}) == "project"
    assert found(None, {"CHIMPBASE_APP": "environ.py"}) == "environ"
    assert found("given.py", {"CHIMPBASE_APP": "environ.py"}) == "given"


def test_a_file_in_a_package_is_imported_by_its_full_name(tmp_path: Path) -> None:
    package = tmp_path / "shop" / "web"
    package.mkdir(parents=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").write_text("")
    (package / "main.py").write_text("")
    target = find_target("shop/web/main.py:app", environ={}, directory=tmp_path)
    assert (target.module, target.attribute, target.root) == ("shop.web.main", "app", tmp_path.resolve())


def test_the_project_is_the_nearest_directory_with_a_mark_but_never_above_here(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    here = tmp_path / "here"
    (here / "a" / "b").mkdir(parents=True)
    (here / "a" / "b" / "app.py").write_text("")
    (here / "app.py").write_text("")
    assert find_target("a/b/app.py", environ={}, directory=here).project == here.resolve()
    (here / "a" / "migrations").mkdir()
    assert find_target("a/b/app.py", environ={}, directory=here).project == (here / "a").resolve()
    assert find_target("app.py", environ={}, directory=here).project == here.resolve()


def test_a_name_that_is_no_file_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="There is no file deep/app.py"):
        find_target("deep/app.py", environ={}, directory=tmp_path)
