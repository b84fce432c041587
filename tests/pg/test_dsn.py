"""Which database is meant, and that its password is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.errors import ConfigError
from chimpbase._pg.dsn import checked, effective_dsn, redact


def test_an_explicit_url_wins_over_the_environment() -> None:
    environ = {"DATABASE_URL": "postgres://b/b", "PGHOST": "c"}
    assert effective_dsn("postgresql://a/a", environ=environ) == "postgresql://a/a"
    assert effective_dsn(None, environ=environ) == "postgres://b/b"
    assert effective_dsn("", environ={"PGHOST": "c"}) == "postgresql://"


@pytest.mark.parametrize("name", ["PGHOST", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER"])
def test_each_libpq_variable_that_names_a_place_counts(name: str) -> None:
    assert effective_dsn(None, environ={name: "x"}) == "postgresql://"


@pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": ""}, {"PGPASSWORD": "x"}, {"PGSSLMODE": "require"}])
def test_nothing_is_configured_when_nothing_says_where(environ: dict[str, str]) -> None:
    assert effective_dsn(None, environ=environ) is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgres://user:p%40ss@host:5432/db?sslmode=require",
        "postgresql://u@/db?host=/run/postgresql&port=5433",
        "postgresql://u:p@[::1]:5432/db",
        "postgresql://u@one:5432,two:5433/db",
        "  postgresql://host/db\n",
    ],
)
def test_a_good_url_is_taken(url: str) -> None:
    assert checked(url) == url.strip()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("mysql://u:hunter2@h/d", "starts with mysql://"),
        ("postgresql+asyncpg://u:hunter2@h/d", "leave out the driver's name"),
        ("host=h password=hunter2", "is not a URL"),
        ("postgresql://u:hunter2/x@h/d", "unquoted"),
        ("postgresql://u:hunter2@x@h/d", "unquoted `@`"),
        ("postgresql://u:hunter2#@h/d", "unquoted `#`"),
        ("postgresql://u:hunter2@h:54a/d", "port that is not a number"),
        ("postgresql://u:hunter2@h:70000/d", "port that is not a number"),
        ("postgresql://u:hunter2@[::1/d", "cannot be read as a URL"),
        ("postgresql://u:hunter2@h/d?sslmode", "cannot be read as a URL"),
        ("postgresql://h/d?port=x&password=hunter2", "port that is not a number"),
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        effective_dsn(None, environ={"DATABASE_URL": url})
    assert "hunter2" not in str(caught.value)
    assert caught.value.key == "DATABASE_URL"
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://u:a@b/c?@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?password=p&sslmode=require", "postgresql://h/d?password=***&sslmode=require"),
        ("postgresql://h/d?sslpassword=p", "postgresql://h/d?sslpassword=***"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
    ],
)
def test_a_password_is_replaced(dsn: str, shown: str) -> None:
    assert redact(dsn) == shown


@given(st.text(alphabet="abc@:/?#%&= '\"", max_size=12))
def test_no_password_survives_redaction(filling: str) -> None:
    password = f"SECRET{filling}SECRET"
    assert "SECRET" not in redact(f"postgresql://user:{password}@host:5432/db")
