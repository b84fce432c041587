"""Workflows as the TypeScript Chimpbase has them: what its tests pin, and three of its defects that must not return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from chimpbase import App, Ctx, Retry, Signal, Wf, errors, step, workflow
from chimpbase.steps import act, wait
from chimpbase.steps import sleep as rest
from chimpbase.testing import Rehearsal, rehearse

pytestmark = pytest.mark.anyio
verified = Signal("email.verified", str)
decision = Signal("decision", dict[str, Any])
calls: list[str] = []


@dataclass
class Customer:
    email: str
    account: int | None = None
    code: str | None = None
    welcomed: bool = False


@step
async def create_account(ctx: Ctx, email: str) -> int:
    await ctx.kv.set(f"account:{email}", True)
    return 7


@step
async def welcome(ctx: Ctx, email: str) -> bool:
    return True


def onboarding() -> Any:
    return workflow(
        "customer.onboarding",
        version=1,
        steps=[
            act("create-account", create_account, args=lambda s: s.email, into="account"),
            rest("a-while", timedelta(minutes=5)),
            wait("verified", verified, timeout=timedelta(days=1), on_timeout="fail", into="code"),
            act("welcome", welcome, args=lambda s: s.email, into="welcomed"),
        ],
        initial=_begin,
    )


def _begin(given: Customer) -> Customer:
    return replace(given)


async def began(t: Rehearsal, flow: Any, input: Any, id: str) -> None:
    async with t.transaction() as ctx:
        handle = await ctx.workflow.start(flow, input, id=id)
        run = await ctx.workflow.get(handle)
    assert (handle.id, run.status, run.workflow, run.version) == (id, "running", flow.name, 1)


async def test_a_list_of_steps_sleeps_waits_and_completes() -> None:
    """Running when started; sleeping after the first action; waiting; and in the end the exact state."""
    flow = onboarding()
    async with rehearse(App("club", [flow])) as t:
        await began(t, flow, Customer("ada@example.org"), "ada")
        await t.drain()
        run = await t.run("ada")
        assert (run.status, run.state["account"]) == ("sleeping", 7)
        await t.advance(timedelta(minutes=5))
        run = await t.run("ada")
        assert (run.status, run.waits) == ("waiting", ("email.verified",))
        async with t.transaction() as ctx:
            await ctx.workflow.signal("ada", verified, "c0de")
        await t.drain()
        assert await t.result("ada") == Customer("ada@example.org", 7, "c0de", welcomed=True)
        done = await t.run("ada")
        assert (done.status, done.waits, done.wake_at) == ("completed", (), None)


@pytest.mark.parametrize("approve", [True, False])
async def test_a_function_sleeps_waits_and_decides(approve: bool) -> None:
    """The order example: approve -> completed; deny -> completed too, with the reason kept and the order rejected."""
    app = App("orders")

    @app.workflow("order.fulfilment", version=1)
    async def fulfil(wf: Wf, order: int) -> dict[str, Any]:
        wf.state = {"phase": "reserving"}
        await create_account(wf, f"order {order}")
        await wf.sleep(timedelta(minutes=1))
        wf.state = {"phase": "review"}
        said = await wf.wait(decision)
        assert said is not None
        if not said["approve"]:
            return {"order": "rejected", "reason": said["reason"]}
        return {"order": "completed"}

    async with rehearse(app) as t:
        await began(t, fulfil, 1, "o")
        await t.drain()
        assert ((await t.run("o")).status, (await t.run("o")).state) == ("sleeping", {"phase": "reserving"})
        await t.advance(timedelta(minutes=1))
        assert ((await t.run("o")).status, (await t.run("o")).state) == ("waiting", {"phase": "review"})
        async with t.transaction() as ctx:
            await ctx.workflow.signal("o", decision, {"approve": approve, "reason": "too dear"})
        await t.drain()
        wanted = {"order": "completed"} if approve else {"order": "rejected", "reason": "too dear"}
        assert await t.result("o") == wanted


async def test_defect_1_the_failure_of_a_workflow_is_recorded() -> None:
    """There: the failure was rolled back with the wake, and the run stayed "running" for ever, in both forms."""
    flow, app = onboarding(), App("failing")

    @step(retry=Retry(max_attempts=3, first=timedelta(seconds=1)))
    async def broken(ctx: Ctx) -> None:
        await ctx.db.execute("select 1 / 0")

    @app.workflow("broken")
    async def breaks(wf: Wf) -> None:
        await broken(wf)

    app.register(flow)
    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(breaks, id="sql")
            await ctx.workflow.start(flow, Customer("a"), id="late")
        await t.advance(timedelta(days=2))
        for id, reason in [("sql", "division by zero"), ("late", "no signal 'email.verified' came")]:
            run = await t.run(id)
            assert run.status == "failed"
            assert reason in (run.error or "")
            assert "current transaction is aborted" not in (run.error or "")
            with pytest.raises(errors.WorkflowFailed, match=reason):
                await t.result(id)


async def test_defect_2_a_step_is_not_done_again_for_the_failure_of_the_next() -> None:
    """There: all steps up to the next rest were one transaction, and the first was executed three times."""
    app = App("steps")
    calls.clear()

    async def outside(what: str) -> str:
        calls.append(what)
        return what

    @step(retry=Retry(max_attempts=3, first=timedelta(0)))
    async def fails(ctx: Ctx) -> None:
        await outside("second")
        raise ValueError("no")

    @app.workflow("two")
    async def two(wf: Wf) -> None:
        await create_account(wf, "kept")
        await wf.step("first", outside, "first")
        await fails(wf)

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(two, id="a")
        await t.advance(timedelta(minutes=5))
        assert (await t.run("a")).status == "failed"
        assert calls == ["first", "second", "second", "second"]
        async with t.transaction() as ctx:
            assert await ctx.kv.get("account:kept", False)


async def test_defect_3_a_signal_that_was_there_before_the_wait_loses_no_state() -> None:
    """There: `onSignal` got the state of before, and the first phase was executed twice."""
    app = App("buffered")
    calls.clear()

    async def note(what: str) -> str:
        calls.append(what)
        return what

    @app.workflow("phases")
    async def phases(wf: Wf) -> dict[str, Any]:
        wf.state = {"phase": "start"}
        await wf.step("start", note, "start")
        wf.state = {"phase": "started", "n": 1}
        said = await wf.wait(verified)
        wf.state = {**wf.state, "said": said}
        await wf.step("end", note, "end")
        return wf.state

    flow = onboarding()
    app.register(flow)
    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(phases, id="a")
            await ctx.workflow.signal("a", verified, "early")
            await ctx.workflow.start(flow, Customer("b"), id="b")
            await ctx.workflow.signal("b", verified, "early")
        await t.advance(timedelta(minutes=5))
        assert await t.result("a") == {"phase": "started", "n": 1, "said": "early"}
        assert calls == ["start", "end"]
        assert await t.result("b") == Customer("b", 7, "early", welcomed=True)
