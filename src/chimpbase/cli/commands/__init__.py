"""The commands, one module each, imported when they are run. Their signatures and `cli/help.py` are their `--help`."""

from __future__ import annotations
