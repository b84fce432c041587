"""Interleavings: whichever statement of whichever process goes next, everything holds after each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.faults.invariants import BROKEN
from tests.faults.rehearse import Played, play
from tests.faults.shrinking import clean, explained, read, rule, shrink, told, words

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
    if played.broken:
        pytest.fail(explained(stage, tmp_path, played, within_s=60))
    assert len(played.trace) > 40


def test_a_seed_decides_what_goes(stage: str, tmp_path: Path) -> None:
    first, again, other = (play(clean(stage), tmp_path, seed) for seed in (7, 7, 8))
    # until the first job falls due, which the database's own clock decides
    assert first.trace[:20] == again.trace[:20] != other.trace[:20]


def test_what_a_seed_breaks_is_broken_again_by_the_script_that_is_told(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if it were a bug that a process is declared dead: some seed does it
    monkeypatch.setitem(BROKEN, "nobody is dead", "select id from chimpbase.process where dead_at is not null")

    def again(seed: int, **decided: Any) -> Played:
        return play(clean(stage), tmp_path, seed, runtimes=1, **decided)

    failed = next(one for one in map(again, range(1, 13)) if one.broken)
    line = words(failed.script)
    scripted, ordered = again(failed.seed, script=read(line)), again(failed.seed, wanted=failed.order)
    assert rule(failed) == "nobody is dead"
    assert (scripted.trace, scripted.broken) == (ordered.trace, ordered.broken) == (failed.trace, failed.broken)
    assert f"python -m tests.faults.shrinking --seed {failed.seed} --script '{line}'" in told(failed, scripted)


def test_shrinking_leaves_what_is_needed_in_its_order() -> None:
    """A play that breaks when d comes after b, and is all that is wanted."""

    def again(wanted: Sequence[str]) -> Played:
        order = tuple(wanted)
        bad = "b" in order and "d" in order[order.index("b") :]
        return Played(seed=1, trace=order, broken=("after d: a rule: 7",) if bad else (), script={}, order=order)

    shortest = shrink(again([*"xxbxxxxxxxcxxxxdxx"]), again, within_s=10)
    assert shortest.trace == ("b", "d")


def test_what_does_not_hold_is_told(stage: str, tmp_path: Path) -> None:
    with psycopg.connect(stage, autocommit=True) as connection:
        connection.execute("insert into ledger (who, note) values ('scene', 'never asked for')")
    (broken,) = play(stage, tmp_path, 1).broken
    assert broken.startswith("in the end: too much Counter({'never asked for': 1})")
