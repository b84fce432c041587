"""Which machine this is, and whether a process of it still exists.

Processes that share a machine and a process namespace can tell at once that one of them is gone, instead of waiting for
its lease to run out: a restart on the same machine takes its work back immediately.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_host() -> str:
    """The machine, its boot and the process namespace, as one name; only those that agree on all compare pids."""
    return f"{socket.gethostname()}/{_boot()}"


def is_gone(host: str, pid: int) -> bool:
    """Whether that process certainly no longer exists. False when it cannot be told from here."""
    if host != this_host() or not _boot():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(pid)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_zombie(pid: int) -> bool:
    # killed, but its parent has not looked yet: it will never run again
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
