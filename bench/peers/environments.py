"""The environments of the peers: pinned requirements here, and packages under .bench/, apart from ours."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent / ".bench"


def python_of(name: str) -> str:
    """The interpreter that has what `requirements/NAME.txt` asks for, made if need be.

    Raises:
        EnvironmentLacking: pip could not install it.
    """
    wanted = HERE / "requirements" / f"{name}.txt"
    place = ROOT / name
    stamp, digest = place / "installed", hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(place, ignore_errors=True)
        ROOT.mkdir(exist_ok=True)
        _run(sys.executable, "-m", "venv", str(place))
        _run(str(place / "bin/python"), "-m", "pip", "install", "-qq", "-r", str(wanted))
        stamp.write_text(digest)
    return str(place / "bin/python")


def node_modules() -> Path:
    """The directory that has what `package-lock.json` asks for, installed now if it is not there.

    Raises:
        EnvironmentLacking: there is no npm, or it could not install it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentLacking("npm is not installed")
    stamp = ROOT / "node_modules/.package-lock.json"
    if not stamp.exists():
        ROOT.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, ROOT / name)
        _run(npm, "ci", "--silent", "--no-audit", "--no-fund", "--prefix", str(ROOT))
    return ROOT


class EnvironmentLacking(Exception):
    """A peer cannot run here."""


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentLacking(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-300:]}")
