"""The command line as a user has it: real processes in a project of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 40

APP = """\
from __future__ import annotations

import os
import time
from dataclasses import dataclass

from chimpbase import App, Ctx, Occurrence, Queue, SyncCtx, Wf, action, cron, worker, workflow
from chimpbase.http import route


@dataclass
class New:
    sku: str
    quantity: int = 1
    gift: bool = False


slow = Queue("slow", float)


@action
async def place(ctx: Ctx, new: New) -> New:
    await ctx.kv.set("last", new.sku)
    return new


@action
async def add(ctx: Ctx, first: int, second: int = 1) -> int:
    return first + second


@action
async def sleep_long(ctx: Ctx, seconds: float) -> None:
    await ctx.queue.enqueue(slow, seconds)


@action
async def pids(ctx: Ctx) -> dict[str, int]:
    database = await ctx.db.fetch_value("select pid from pg_stat_activity where backend_type = 'checkpointer'")
    return {"app": os.getpid(), "database": database}


@action
async def word(ctx: Ctx) -> str:
    return "first"


@action
async def fail(ctx: Ctx) -> None:
    raise RuntimeError("this action fails")


@worker(slow)
def sleep_for(ctx: SyncCtx, seconds: float) -> None:
    ctx.log.info("sleeping")
    time.sleep(seconds)


@cron("0 9 * * 1-5", tz="Europe/Lisbon")
async def report(ctx: Ctx, due: Occurrence) -> None: ...


@workflow("checkout", version=2)
async def checkout(wf: Wf, order: int) -> str:
    return "done"


app = App(
    "shop",
    register=[
        place, add, sleep_long, pids, word, fail, sleep_for, report, checkout,
        route.get("/pids", pids), route.get("/word", word), route.post("/sleep", sleep_long),
    ],
)
"""


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of this process, without what would choose a database or a setting."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CHIMPBASE_", "PG")) and name not in {"DATABASE_URL", "PORT", "NO_COLOR"}
    }
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", **(given or {})}


def chimpbase(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "chimpbase", *words],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


class Running:
    """A command that runs until it is told to stop. Both of its streams go to one file."""

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._file = cwd / f".output-{len(list(cwd.glob('.output-*')))}"
        with self._file.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chimpbase", *words],
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        print(self.output)  # shown when the test fails

    @property
    def output(self) -> str:
        return self._file.read_text(errors="replace")

    @property
    def address(self) -> str | None:
        """Where it serves, once it has said so."""
        found = re.search(r"on (http://[\d.]+:\d+)", self.output)
        return found[1] if found else None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> bool:
        return self.process.poll() is not None


@dataclass(frozen=True)
class Answer:
    status: int
    text: str


def ask(url: str, body: bytes | None = None) -> Answer | None:
    """What is answered at a URL; None while nobody does."""
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    with suppress(OSError):
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return Answer(response.status, response.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())
    return None


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and unburied does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
