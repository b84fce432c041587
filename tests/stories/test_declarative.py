"""Workflows that are lists of steps: on the same engine, with the same history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from chimpbase import App, Ctx, Retry, Signal, action, step, workflow
from chimpbase._core.errors import UsageError, WorkflowFailed
from chimpbase.steps import FlowStep, act, branch, each, parallel, wait
from chimpbase.steps import sleep as rest
from chimpbase.testing import Rehearsal, rehearse

pytestmark = pytest.mark.anyio

verified = Signal("email.verified", bool)


@dataclass
class SignUp:
    email: str
    plan: str = "free"


@dataclass
class Onboarding:
    email: str
    plan: str
    account: int | None = None
    verified: bool = False
    welcomed: str | None = None


def begin(new: SignUp) -> Onboarding:
    return Onboarding(new.email, new.plan)


class Calls(list[str]):
    """What the steps did, in order, with the steps themselves."""

    def __init__(self) -> None:
        super().__init__()

        @step
        async def create_account(ctx: Ctx, email: str) -> int:
            self.append(f"create {email}")
            return len(email)

        @action
        async def greet(ctx: Ctx, account: int, how: str) -> str:
            self.append(f"greet {account} by {how}")
            return how

        self.create_account, self.greet = create_account, greet


def onboarding(calls: Calls, **given: Any) -> Any:
    steps: list[FlowStep] = [
        act("create-account", calls.create_account, args=lambda s: s.email, into="account"),
        wait("verified", verified, timeout=timedelta(hours=24), into="verified", **given),
        rest("settle", timedelta(minutes=5)),
        branch(
            "by-plan",
            lambda s: s.plan == "paid",
            then=[act("greet-paid", calls.greet, args=lambda s: (s.account, "phone"), into="welcomed")],
            otherwise=act("greet-free", calls.greet, args=lambda s: (s.account, "mail"), into="welcomed"),
        ),
    ]
    return workflow("customer.onboarding", version=1, initial=begin, steps=steps)


async def started(t: Rehearsal, flow: Any, input: Any = None, *, id: str = "a") -> None:
    async with t.transaction() as ctx:
        await ctx.workflow.start(flow, input, id=id)
    await t.drain()


async def send(t: Rehearsal, signal: Any, payload: Any, *, id: str = "a") -> None:
    async with t.transaction() as ctx:
        await ctx.workflow.signal(id, signal, payload)
    await t.drain()


async def test_a_list_of_steps_runs_from_the_input_to_the_last_state(dsn: str) -> None:
    calls = Calls()
    flow = onboarding(calls)
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, SignUp("ada@example.org", "paid"))
        assert (await t.run("a")).waits == ("email.verified",)
        await send(t, verified, payload=True)
        assert (await t.run("a")).status == "sleeping"
        await t.crash_and_replay("a")
        await t.advance(timedelta(minutes=6))
        result = await t.result("a")
        assert result == Onboarding("ada@example.org", "paid", 15, verified=True, welcomed="phone")
        keys = await t.crash_and_replay("a")
    assert calls == ["create ada@example.org", "greet 15 by phone"]
    assert [key for key in keys if not key.startswith(("wait", "sleep"))] == ["create-account#1", "greet-paid#1"]


@pytest.mark.parametrize(
    ("on_timeout", "plan"),
    [("continue", "free"), (lambda s: Onboarding(s.email, "paid", s.account), "paid")],
)
async def test_a_wait_that_times_out_goes_on_as_told(dsn: str, on_timeout: Any, plan: str) -> None:
    flow = onboarding(Calls(), on_timeout=on_timeout)
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, SignUp("a@b"))
        await t.advance(timedelta(hours=25))
        result = await t.result("a")
        assert (result.plan, result.verified) == (plan, False)


async def test_a_wait_that_times_out_fails_the_run_and_that_is_recorded(dsn: str) -> None:
    flow = onboarding(Calls())
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, SignUp("a@b"))
        await t.advance(timedelta(hours=25))
        assert (await t.run("a")).status == "failed"
        with pytest.raises(WorkflowFailed, match="no signal 'email.verified' came within 1 day"):
            await t.result("a")


async def test_a_signal_that_came_before_the_wait_keeps_the_state_of_the_steps_before(dsn: str) -> None:
    flow, calls = (
        workflow(
            "early",
            steps=[
                act("first", _remember, args=lambda s: s["n"], into="first"),
                rest("rest", 60),
                wait("go", "go", on_result=lambda s, payload: {**s, "go": payload, "first_was": s["first"]}),
            ],
        ),
        0,
    )
    assert calls == 0
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, {"n": 3})
        await send(t, "go", 5)
        await t.advance(timedelta(minutes=2))
        assert await t.result("a") == {"n": 3, "first": 6, "go": 5, "first_was": 6}


async def _remember(ctx: Ctx, n: int) -> int:
    return n * 2


async def test_branches_run_side_by_side_and_change_the_state_in_their_order(dsn: str) -> None:
    def append(name: str) -> Callable[[Any, Any], Any]:
        return lambda s, result: {**s, "log": [*s["log"], f"{name}:{result}"]}

    flow = workflow(
        "both",
        initial=lambda: {"log": []},
        steps=[
            parallel(
                "both",
                [
                    rest("slow", 60),
                    act("a", _remember, args=lambda s: 1, on_result=append("a")),
                    act("a2", _remember, args=lambda s: len(s["log"]), on_result=append("a2")),
                ],
                act("b", _remember, args=lambda s: 2, on_result=append("b")),
            ),
        ],
    )
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow)
        await t.advance(timedelta(minutes=2))
        assert await t.result("a") == {"log": ["a:2", "a2:2", "b:4"]}
        await t.crash_and_replay("a")


async def test_each_does_the_same_for_every_item(dsn: str) -> None:
    calls: list[int] = []

    async def pack(ctx: Ctx, n: int) -> int:
        calls.append(n)
        return n * 10

    flow = workflow(
        "ship",
        steps=[
            each("pack", lambda s: s["items"], act("pack-one", pack), into="packed", limit=2),
            each(
                "label",
                lambda s: [{"n": n} for n in s["packed"]],
                [act("label-one", pack, args=lambda item: item["n"], into="label"), rest("dry", 30)],
                key=lambda item: item["n"],
                into="labels",
            ),
        ],
    )
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, {"items": [1, 2, 3]})
        await t.advance(timedelta(minutes=1))
        result = await t.result("a")
        assert result["packed"] == [10, 20, 30]
        assert result["labels"] == [{"n": n, "label": n * 10} for n in (10, 20, 30)]
        keys = await t.crash_and_replay("a")
    assert sorted(calls) == [1, 2, 3, 10, 20, 30]
    assert len(keys) == len(set(keys)) == 9


async def test_a_step_that_fails_is_tried_again_and_its_failure_is_the_runs(dsn: str) -> None:
    tries: list[int] = []

    async def flaky(ctx: Ctx) -> int:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ConnectionError("no line")
        return 7

    async def hopeless(ctx: Ctx) -> None:
        raise ValueError("never")

    flow = workflow(
        "tries",
        steps=[
            act("flaky", flaky, retry=Retry(max_attempts=3), into="seven"),
            act("hopeless", hopeless, retry=Retry(max_attempts=1)),
        ],
    )
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, {})
        await t.advance(timedelta(minutes=5))
        assert len(tries) == 3
        with pytest.raises(WorkflowFailed, match="never"):
            await t.result("a")


async def test_the_state_can_be_asked_for_on_the_way(dsn: str) -> None:
    flow = workflow("slow", steps=[act("one", _remember, args=lambda s: 4, into="one"), wait("go", "go")])
    async with rehearse(App("club", register=[flow]), database_url=dsn) as t:
        await started(t, flow, {"n": 1})
        async with t.transaction() as ctx:
            state = await ctx.db.fetch_value("select state from chimpbase.run where id = 'a'")
            shown = await ctx.workflow.get("a")
        assert shown.status == "waiting"
        assert state == "waiting" or json.loads(state)
        assert getattr(shown, "state", {"n": 1, "one": 8}) == {"n": 1, "one": 8}


SEVEN: Any = 7
ANY_WORKFLOW: Any = workflow


async def _no_ctx() -> None: ...


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: workflow("w", steps=[]), "empty list"),
        (lambda: workflow("w", steps=[act("a", _remember), rest("a", 1)]), "two steps with the id 'a'"),
        (lambda: workflow("w", steps=[act("a", _remember), branch("b", bool, then=[rest("a", 1)])]), "two steps"),
        (lambda: workflow("w", steps=[SEVEN]), "takes act, sleep"),
        (lambda: workflow("w", steps=SEVEN), "takes act, sleep"),
        (lambda: workflow("w", steps=[rest("a", 1)], initial=SEVEN), "initial must be a function"),
        (lambda: ANY_WORKFLOW("w", steps=[rest("a", 1)], initial=lambda a, b: a), "initial must take one input"),
        (lambda: workflow("w", steps=[rest("a", 1)], version=0), "version must be"),
        (lambda: ANY_WORKFLOW("w", initial=begin), "belongs to steps="),
        (lambda: act("a", SEVEN), "takes a step, an action or a function"),
        (lambda: act("", _remember), "must not be empty"),
        (lambda: act("a", _no_ctx), "context"),
        (lambda: act("a", _remember, args=SEVEN), "args must be a function"),
        (lambda: act("a", _remember, into="x", on_result=lambda s, r: s), "Give one of them"),
        (lambda: act("a", _remember, into=SEVEN), "into must be"),
        (lambda: rest("a", -1), "duration of sleep"),
        (lambda: rest("a", float("nan")), "duration of sleep"),
        (lambda: wait("a", "s", timeout=-1), "timeout of wait"),
        (lambda: wait("a", "s", on_timeout=SEVEN), "on_timeout must be"),
        (lambda: wait("a", "s\0"), "signal name"),
        (lambda: parallel("a"), "needs branches"),
        (lambda: parallel("a", []), "empty list"),
        (lambda: branch("a", SEVEN, then=rest("b", 1)), "when must be a function"),
        (lambda: each("a", SEVEN, rest("b", 1)), "over must be a function"),
        (lambda: each("a", list, rest("b", 1), limit=True), "limit must be"),
    ],
)
def test_a_wrong_list_is_refused_when_it_is_made(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


def test_it_stands_where_it_was_written() -> None:
    flow = workflow("w", steps=[rest("a", 1)])
    assert "test_declarative.py:" in flow.source
