"""Interleavings: whichever statement of whichever process goes next, everything holds after each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.faults.rehearse import play

pytestmark = pytest.mark.timeout(120)
SEEDS = range(6)


@pytest.fixture
def stage(caretaker: Any, dsn: str) -> str:
    async def prepare() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute("create table ledger (who text, note text, at timestamptz default clock_timestamp())")
        await connection.close()

    caretaker.run(prepare())
    return dsn


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds_after_every_statement(stage: str, tmp_path: Path, seed: int) -> None:
    played = play(stage, tmp_path, seed)
    assert played.broken == ()
    assert len(played.trace) > 40


def test_a_seed_decides_what_goes(stage: str, tmp_path: Path) -> None:
    first, again, other = (play(clean(stage), tmp_path, seed) for seed in (7, 7, 8))
    # until the first job falls due, which the database's own clock decides
    assert first.trace[:20] == again.trace[:20] != other.trace[:20]


def test_some_seeds_declare_a_process_dead(stage: str, tmp_path: Path) -> None:
    seeds = (play(clean(stage), tmp_path, seed) for seed in range(1, 13))
    assert any("declared dead" in line for seed in seeds for line in seed.trace)


def test_what_does_not_hold_is_told(stage: str, tmp_path: Path) -> None:
    with psycopg.connect(stage, autocommit=True) as connection:
        connection.execute("insert into ledger (who, note) values ('scene', 'never asked for')")
    (broken,) = play(stage, tmp_path, 1).broken
    assert broken.startswith("in the end: too much Counter({'never asked for': 1})")


def clean(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop schema if exists chimpbase cascade; truncate ledger")
    return dsn
