"""Runs the peers' programs, each in a database of its own on the same server, and makes what they need."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.stand import Stand

HERE = Path(__file__).parent
ROOT = HERE.parent.parent / ".bench"


@dataclass(frozen=True)
class Peer:
    """`share` is how many of the run's jobs it gets: a slow one would take minutes."""

    name: str
    command: tuple[str, ...]
    share: float = 1.0


PEERS = (
    Peer("PgQueuer 1.6.0", (str(ROOT / "venv/bin/python"), str(HERE / "pgqueuer_peer.py"))),
    Peer("Procrastinate 3.10.0", (str(ROOT / "venv/bin/python"), str(HERE / "procrastinate_peer.py")), share=0.03),
    Peer("graphile-worker 0.17.3", ("node", str(HERE / "graphile_peer.mjs"))),
)


def prepare() -> list[Peer]:
    """Install what is missing into .bench; the peers that can run here."""
    ROOT.mkdir(exist_ok=True)
    python = ROOT / "venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / "venv")], check=True)
        wanted = str(HERE / "requirements.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-qq", "-r", wanted], check=True)
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: graphile-worker is left out", file=sys.stderr)
        return [peer for peer in PEERS if peer.command[0] != "node"]
    if not (ROOT / "node_modules").exists():
        shutil.copy(HERE / "package.json", ROOT / "package.json")
        shutil.copy(HERE / "package-lock.json", ROOT / "package-lock.json")
        subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=ROOT, check=True)
    return list(PEERS)


async def run(peer: Peer, stand: Stand, *, jobs: int, turn: int) -> dict[str, float]:
    """One turn of a peer: jobs per second under `single` (50 callers), `bulk` and `drain`."""
    dsn = await stand.database(f"peer_{peer.name.split()[0].lower().replace('-', '_')}_{turn}")
    process = await asyncio.create_subprocess_exec(
        *peer.command,
        dsn,
        str(max(2000, int(jobs * peer.share))),
        env={**os.environ, "PEERS_ROOT": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{peer.name} failed:\n{err.decode()[-2000:]}")
    return json.loads(out.decode().strip().splitlines()[-1])
