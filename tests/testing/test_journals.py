"""Journals as fixtures: exported from a database, committed, and replayed over the code at hand without one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from chimpbase import App, Ctx, OldRun, Signal, Wf, errors, step
from chimpbase.testing import rehearse, replay

pytestmark = pytest.mark.anyio
go = Signal("go", int)


@step
async def charge(ctx: Ctx, amount: int) -> dict[str, float]:
    return {"charged": amount + 0.1}


@step(name="charge-card")
async def charge_card(ctx: Ctx, amount: int) -> dict[str, float]:
    return {"charged": amount + 0.1}


@step
async def check(ctx: Ctx, amount: int) -> None: ...


async def original(wf: Wf, amount: int) -> float:
    paid = await charge(wf, amount)
    await wf.sleep(60)
    return paid["charged"] + (await wf.wait(go, timeout=60, default=0) or 0)


async def with_more_steps(wf: Wf, amount: int) -> float:
    await check(wf, amount)
    return await original(wf, amount)


async def with_other_arguments(wf: Wf, amount: int) -> float:
    return await original(wf, amount + 1)


async def renamed_with_other_arguments(wf: Wf, amount: int) -> float:
    paid = await charge_card(wf, amount + 1)
    return paid["charged"]


async def with_another_result(wf: Wf, amount: int) -> float:
    return await original(wf, amount) + 1


async def without_the_rest(wf: Wf, amount: int) -> float:
    return 0.0


def app_of(code: object, *, version: int = 1, **options: object) -> App:
    app = App("pay")
    app.workflow("pay", version=version, **options)(code)  # type: ignore[call-overload]
    return app


@pytest.fixture
async def journal(tmp_path: Path) -> Path:
    """The journal of a run that has ended."""
    async with rehearse(app_of(original)) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start("pay", 10, id="run 1")
            await ctx.workflow.signal("run 1", go, 5)
        await t.advance(timedelta(minutes=2))
        assert await t.result("run 1") == 15.1
        async with t.transaction() as ctx:
            text = await ctx.workflow.export("run 1")
            assert "charge#1" in await ctx.workflow.handle("run 1").export()
            with pytest.raises(errors.NotFound):
                await ctx.workflow.export("nobody")
    return kept(tmp_path / "run.json", text)


def kept(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def read(file: Path) -> str:
    return file.read_text()


async def test_a_journal_is_replayed_without_a_database(journal: Path) -> None:
    assert await replay(app_of(original), journal, exact=True) == ["charge#1", "sleep#1", "wait:go#1"]
    whole = json.loads(read(journal))
    assert whole["steps"][0]["result"] == {"charged": 10.1}
    assert (whole["run"]["input"], whole["run"]["output"], whole["run"]["state"]) == (10, 15.1, "completed")


async def test_more_steps_are_fine_unless_it_is_to_be_exact(journal: Path) -> None:
    assert await replay(app_of(with_more_steps), journal) == ["check#1"]
    with pytest.raises(AssertionError, match=r"wrote \['charge#1'"):
        await replay(app_of(with_more_steps), journal, exact=True)
    with pytest.raises(AssertionError, match="completed with 15.1, and its code now gives"):
        await replay(app_of(with_another_result), journal, exact=True)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (with_other_arguments, "charge#1 was done with"),
        (renamed_with_other_arguments, r"@step\(was='charge'\)"),
        (without_the_rest, "the code ended without asking for charge#1"),
    ],
)
async def test_code_that_could_not_go_on_fails_the_test(journal: Path, code: object, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        await replay(app_of(code), journal)


async def test_a_journal_of_an_older_version_is_moved_first(journal: Path) -> None:
    def upgrade(run: OldRun) -> None:
        run.input = {"amount": run.input}
        run.rename("charge#1", "charge-card#1")

    async def second(wf: Wf, given: dict[str, int]) -> float:
        await charge_card(wf, given["amount"])
        await wf.sleep(60)
        await wf.wait(go)
        return 15.1

    moved = app_of(second, version=2, migrate={1: upgrade})
    assert await replay(moved, journal, exact=True) == ["charge-card#1", "sleep#1", "wait:go#1"]
    with pytest.raises(AssertionError, match="no version 1 of 'pay', and no migrate="):
        await replay(app_of(original, version=2), journal)


async def test_what_is_no_journal_is_refused(journal: Path) -> None:
    app = app_of(original)
    for text, problem in [
        ("{", "no journal"),
        ("[]", "no journal"),
        ('{"chimpbase_journal": 2}', "format 2"),
        ('{"chimpbase_journal": 1, "run": {}}', "damaged"),
        (read(journal).replace('"kind": "step"', '"kind": "dance"'), "damaged"),
    ]:
        with pytest.raises(errors.UsageError, match=problem):
            await replay(app, text)


async def test_a_run_that_has_not_ended_is_exported_too() -> None:
    async with rehearse(app_of(original)) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start("pay", 2**60, id="r")
        await t.drain()
        async with t.transaction() as ctx:
            text = await ctx.workflow.export("r")
    assert await replay(app_of(original), text, exact=True) == ["charge#1", "sleep#1"]
