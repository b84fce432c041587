"""`chimpbase kv` and `chimpbase collection`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import chimpbase


def test_keys_are_put_listed_read_and_deleted(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.chimpbase]\napp = "app.py"\n')

    def run(*words: str, code: int = 0) -> str:
        done = chimpbase("kv", *words, cwd=tmp_path, env={"DATABASE_URL": dsn})
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    assert run("put", "greeting", '{"a": [1]}', "--ttl", "1h").startswith("set greeting, version ")
    assert json.loads(run("get", "greeting")) == {"a": [1]}
    run("put", "tea", "1.5", "--namespace", "quotes", "--if-absent")
    assert "already" in run("put", "tea", "2", "-n", "quotes", "--if-absent", code=1)
    assert run("ls", "--namespaces").split() == ["NAMESPACE", "quotes"]
    (entry,) = json.loads(run("ls", "greet", "-o", "json"))
    assert entry["key"] == "greeting"
    assert entry["expires_at"] is not None
    assert "greeting" in run("ls")
    assert run("delete", "greeting") == "deleted greeting\n"
    assert "greeting" in run("get", "greeting", code=3)
    assert "not JSON" in run("put", "a", "nonsense", code=2)
    assert "512" in run("put", "x" * 513, "1", code=2)


def test_documents_are_put_found_read_and_deleted(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.chimpbase]\napp = "app.py"\n')

    def run(*words: str, code: int = 0) -> str:
        done = chimpbase("collection", *words, cwd=tmp_path, env={"DATABASE_URL": dsn})
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    assert run("put", "people", '{"id": "ada", "age": 36}') == "ada\n"
    new = run("put", "people", '{"age": 4}').strip()
    assert json.loads(run("get", "people", "ada")) == {"id": "ada", "age": 36}
    assert run("ls").split() == ["NAME", "DOCUMENTS", "people", "2"]
    page = json.loads(run("find", "people", '{"age": {"gt": 1}}', "--sort=-age", "--limit", "1", "-o", "json"))
    assert [one["id"] for one in page["documents"]] == ["ada"]
    assert page["next"]
    assert "ada" in run("find", "people", "--fields", "age")
    assert json.loads(run("indexes", "people", "-o", "json")) == []
    assert run("delete", "people", new) == "deleted 1\n"
    assert "--yes" in run("delete", "people", "{}", code=2)
    assert run("delete", "people", "{}", "--yes") == "deleted 1\n"
    assert "ada" in run("get", "people", "ada", code=3)
    assert "operator" in run("find", "people", '{"a": {"like": 1}}', code=2)
