"""Settings are settled by precedence, checked as a whole, and silent about secrets."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chimpbase._core.errors import ConfigError
from chimpbase._core.settings import Settings, documented

SECRET = "postgresql://bob:s3@cret@db.example:5432/shop?sslpassword=alsosecret"


def test_the_defaults_stand_by_themselves() -> None:
    settings = Settings.load()
    assert settings == Settings()
    assert (settings.port, settings.concurrency, settings.threads) == (8000, 10, 16)
    assert settings.heartbeat == settings.lease / 3 == timedelta(seconds=5)
    assert settings.data_directory == ".chimpbase/pg"
    assert repr(settings) == "Settings()"


def test_an_override_beats_the_environment_beats_pyproject_beats_the_default() -> None:
    toml = {"port": 1, "pool-size": 1, "threads": 1}
    environ = {"CHIMPBASE_PORT": "2", "CHIMPBASE_POOL_SIZE": "2"}
    settings = Settings.load({"port": 3, "concurrency": None}, environ, toml)
    assert (settings.port, settings.pool_size, settings.threads, settings.concurrency) == (3, 2, 1, 10)
    sources = {line.name: line.source for line in settings.describe()}
    assert sources["port"] == "override"
    assert sources["pool_size"] == "CHIMPBASE_POOL_SIZE"
    assert sources["threads"] == "pyproject.toml"
    assert sources["concurrency"] == sources["heartbeat"] == "default"


def test_variables_of_platforms_are_known() -> None:
    settings = Settings.load(environ={"DATABASE_URL": SECRET, "PORT": "9000"})
    assert (settings.database_url, settings.port) == (SECRET, 9000)
    ours = {"DATABASE_URL": SECRET, "CHIMPBASE_DATABASE_URL": "postgresql:///ours"}
    assert Settings.load(environ=ours).database_url == "postgresql:///ours"


def test_an_empty_variable_is_absent() -> None:
    assert Settings.load(environ={"CHIMPBASE_PORT": " ", "CHIMPBASE_NONSENSE": ""}).port == 8000


def test_variables_that_kubernetes_invents_for_a_service_of_our_name_are_left_alone() -> None:
    environ = {
        "CHIMPBASE_PORT": "tcp://10.0.0.1:80",
        "CHIMPBASE_PORT_80_TCP_ADDR": "10.0.0.1",
        "CHIMPBASE_SERVICE_HOST": "10.0.0.1",
        "CHIMPBASE_SERVICE_PORT_HTTP": "80",
        "CHIMPBASE_TEST_DATABASE_URL": "x",
    }
    assert Settings.load(environ=environ) == Settings()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("15s", timedelta(seconds=15)),
        ("1m30s", timedelta(seconds=90)),
        ("20", timedelta(seconds=20)),
        ("2.5", timedelta(seconds=2.5)),
        (30, timedelta(seconds=30)),
        (timedelta(minutes=1), timedelta(minutes=1)),
    ],
)
def test_a_duration_may_be_text_a_number_or_a_timedelta(given: Any, expected: timedelta) -> None:
    assert Settings.load({"lease": given, "heartbeat": "500ms"}).lease == expected


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("ON", True), ("no", False), ("false", False)])
def test_a_switch_may_be_written_in_words(text: str, expected: bool) -> None:
    assert Settings.load(environ={"CHIMPBASE_NOTIFY": text}).notify is expected


def test_a_path_may_be_a_path() -> None:
    assert Settings.load({"migrations": Path("db") / "sql"}).migrations == "db/sql"


@pytest.mark.parametrize(
    ("overrides", "environ", "toml", "words"),
    [
        ({"concurency": 1}, {}, {}, "'concurency'. Did you mean 'concurrency'"),
        ({}, {"CHIMPBASE_CONCURENCY": "1"}, {}, "Did you mean 'CHIMPBASE_CONCURRENCY'"),
        ({}, {}, {"pool-sise": 1}, "'tool.chimpbase.pool-sise'. Did you mean 'tool.chimpbase.pool_size'"),
        ({"qqqq": None}, {}, {}, "The settings are: app, database_url"),
        ({"port": 65536}, {}, {}, "whole number from 0 to 65535"),
        ({"port": True}, {}, {}, "whole number"),
        ({"port": 80.0}, {}, {}, "whole number"),
        ({}, {"CHIMPBASE_PORT": "eighty"}, {}, "(from CHIMPBASE_PORT) is 'eighty'"),
        ({}, {"CHIMPBASE_PORT": "٣"}, {}, "whole number"),
        ({}, {}, {"pool_size": 0}, "(from pyproject.toml) is 0"),
        ({"notify": 1}, {}, {}, "true or false"),
        ({}, {"CHIMPBASE_NOTIFY": "perhaps"}, {}, "true or false"),
        ({"log_format": "xml"}, {}, {}, "one of auto, text, json"),
        ({"lease": "soon"}, {}, {}, "a duration from 1s to 1d"),
        ({"lease": float("nan")}, {}, {}, "a duration"),
        ({"poll": -1}, {}, {}, "a duration"),
        ({"host": ""}, {}, {}, "a host name"),
        ({"migrations": ["a"]}, {}, {}, "a directory"),
        ({"heartbeat": "10s"}, {}, {}, "heartbeat is 10s and lease 15s"),
        ({"lease": "2s", "heartbeat": "1s"}, {}, {}, "at most 666ms|beat three times"),
    ],
)
def test_what_is_wrong_is_refused_with_the_key_and_what_it_should_be(
    overrides: dict[str, Any], environ: dict[str, str], toml: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(overrides, environ, toml)
    assert any(part in str(caught.value) for part in words.split("|"))
    assert caught.value.key
    assert "\n" not in str(caught.value)


def test_the_constructor_checks_too() -> None:
    with pytest.raises(ConfigError, match="port"):
        Settings(port=-1)
    with pytest.raises(ConfigError, match="heartbeat"):
        Settings(heartbeat=timedelta(seconds=15))


def test_an_env_file_can_be_switched_off() -> None:
    assert Settings(env_file=None).env_file is None


def test_a_secret_is_shown_nowhere() -> None:
    settings = Settings.load({"database_url": SECRET})
    shown = [repr(settings), str(settings), *(line.value for line in settings.describe())]
    assert not [text for text in shown if "cret" in text or "bob" in text]
    assert "postgresql://***@db.example:5432/shop" in repr(settings)
    wrong: Any = [SECRET]
    with pytest.raises(ConfigError) as caught:
        Settings.load({"database_url": wrong})
    assert "cret" not in str(caught.value)
    assert Settings(database_url="host=x password=s3cret").describe()[1].value == "***"


def test_every_setting_is_documented_with_its_variable() -> None:
    lines = documented()
    assert [line.name for line in lines] == [line.name for line in Settings().describe()]
    for line in lines:
        assert line.env == f"CHIMPBASE_{line.name.upper()}"
        assert line.doc.endswith(".")
        assert line.expected
