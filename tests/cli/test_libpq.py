"""A database URL as variables of libpq."""

from __future__ import annotations

import pytest

from chimpbase.cli.failures import CommandFailed
from chimpbase.cli.libpq import libpq_environment


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://", {}),
        (
            "postgresql://ann:p%40ss%2F@db.example:6432/shop?sslmode=require",
            {
                "PGUSER": "ann",
                "PGPASSWORD": "p@ss/",
                "PGHOST": "db.example",
                "PGPORT": "6432",
                "PGDATABASE": "shop",
                "PGSSLMODE": "require",
            },
        ),
        ("postgres://a@[::1]:5433/x", {"PGUSER": "a", "PGHOST": "::1", "PGPORT": "5433", "PGDATABASE": "x"}),
        ("postgresql://h1:1,h2:2/x", {"PGHOST": "h1,h2", "PGPORT": "1,2", "PGDATABASE": "x"}),
        (
            "postgresql://chimpbase@/chimpbase?host=%2Ftmp%2Fsockets&port=5432",
            {"PGUSER": "chimpbase", "PGDATABASE": "chimpbase", "PGHOST": "/tmp/sockets", "PGPORT": "5432"},
        ),
    ],
)
def test_every_part_has_its_variable(url: str, expected: dict[str, str]) -> None:
    assert libpq_environment(url) == expected


def test_an_option_without_a_variable_is_refused() -> None:
    with pytest.raises(CommandFailed, match="'statement_timeout', which psql takes from no variable"):
        libpq_environment("postgresql://h/x?statement_timeout=5")
