"""Runs the workflow peers' programs, each in a database of its own on the same server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass

from bench.peers.rotation import HERE, ROOT
from bench.stand import Stand

PYTHON = ROOT / "venv-workflows/bin/python"


@dataclass(frozen=True)
class FlowPeer:
    """`share` is how many of the runs it gets: a slow one would take minutes."""

    name: str
    program: str
    share: float


FLOW_PEERS = (FlowPeer("DBOS 3.4.0", "dbos_peer.py", 0.05), FlowPeer("Absurd 0.5.1", "absurd_peer.py", 0.05))


def prepare() -> None:
    """Install what is missing into .bench."""
    ROOT.mkdir(exist_ok=True)
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parent.parent)], check=True)
        wanted = str(HERE / "requirements-workflows.txt")
        subprocess.run([str(PYTHON), "-m", "pip", "install", "-qq", "-r", wanted], check=True)


async def run(peer: FlowPeer, stand: Stand, *, runs: int, at_once: int) -> dict[str, float]:
    """Workflows per second (`rate`) and milliseconds from start to end (`p50`), with so many in flight."""
    dsn = await stand.database(f"peer_{peer.program.split('_')[0]}_{at_once}")
    given = str(max(2 * at_once, int(runs * peer.share)))
    process = await asyncio.create_subprocess_exec(
        str(PYTHON),
        str(HERE / peer.program),
        dsn,
        given,
        str(at_once),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{peer.name} failed:\n{err.decode()[-2000:]}")
    return json.loads(next(line for line in reversed(out.decode().splitlines()) if line.startswith("{")))
