"""What is seen in a workflow's code at a start: what answers otherwise each time, and what acts by itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import random
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePath
from time import monotonic
from typing import Any
from urllib.request import urlopen

import pytest

from chimpbase import App, Ctx, Wf, step
from chimpbase._app.workflow_code import read_code
from tests.running import Start

_log = logging.getLogger(__name__)


async def wall_clock(wf: Wf) -> None:
    await wf.sleep(time.time())


async def other_clock(wf: Wf) -> None:
    await wf.sleep(monotonic())


async def today(wf: Wf) -> str:
    return dt.datetime.now().isoformat()


async def chance(wf: Wf) -> float:
    return random.random()


async def made_up(wf: Wf) -> str:
    return str(uuid.uuid4())


async def the_environment(wf: Wf) -> str:
    return os.environ["HOME"]


async def a_file(wf: Wf) -> str:
    with open("order.txt") as file:  # noqa: ASYNC230, PTH123
        return file.read()


async def the_network(wf: Wf) -> bytes:
    return urlopen("http://127.0.0.1").read()  # noqa: ASYNC210


def helper() -> float:
    return time.time()


async def by_another_function(wf: Wf) -> float:
    return helper()


async def in_a_lambda(wf: Wf) -> list[int]:
    return sorted([1, 2], key=lambda _: random.random())


@step
async def write(ctx: Ctx) -> float:
    return time.time()


async def innocent(wf: Wf) -> str:
    """Steps may do anything; a workflow may log, count, and take paths and dates apart."""
    _log.info("at %s", wf.now())
    await write(wf)
    later = wf.now() + timedelta(days=1)
    await asyncio.gather(wf.sleep_until(later), wf.sleep(1))
    return f"{PurePath('a') / str(wf.uuid())} {dt.date(2026, 1, 1)} {wf.random()}"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (wall_clock, r"time\.time .*use wf\.now\(\)"),
        (other_clock, r"monotonic .*use wf\.now\(\)"),
        (today, r"dt\.datetime\.now .*use wf\.now\(\)"),
        (chance, r"random\.random .*use wf\.random\(\)"),
        (made_up, r"uuid\.uuid4 .*use wf\.uuid\(\)"),
        (the_environment, r"os\.environ .*use a step"),
        (a_file, r"open .*use a step"),
        (the_network, r"urlopen .*use a step"),
        (by_another_function, r"time\.time"),
        (in_a_lambda, r"random\.random"),
    ],
)
def test_clocks_chance_and_io_in_a_workflow_are_found(code: Callable[..., Any], advice: str) -> None:
    (warning,) = read_code(code).warnings
    _matches(advice, warning)


def test_steps_logs_and_dates_are_no_reason_to_warn() -> None:
    assert read_code(innocent).warnings == ()


@pytest.mark.anyio
async def test_a_start_warns_of_them_with_place_and_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    app = App("impure")
    app.workflow("impure")(chance)
    with caplog.at_level(logging.WARNING, logger="chimpbase"):
        async with start(app):
            pass
    (told,) = [record.getMessage() for record in caplog.records if "random.random" in record.getMessage()]
    line = chance.__code__.co_firstlineno
    assert f"test_workflow_code.py:{line}" in told or f"(line {line})" in told
    assert "its code runs again after each rest" in told


def _matches(pattern: str, text: str) -> None:
    import re

    assert re.search(pattern, text), text
