"""The queue engine against the raw limit of the same server.

    python -m bench --only queue              up to three rounds, written to bench/results/queue.json and the page
    python bench/queue.py --scale 0.2         one short round, nothing written

Starts a PostgreSQL of its own (fsync on, same cores), measures the raw limits before and after, and counts every job in
and out: a lost or doubled job fails the run. Ratios are what to read; absolute figures belong to the machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # this file is called like a module of the standard library: its own folder must not be searched for imports
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from bench.__main__ import alone

    alone("queue")
