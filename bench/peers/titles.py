"""What the peers are measured in, by the word each program uses for it, and what we are called beside them."""

from __future__ import annotations

TITLES = {"drain": "drain", "bulk": "enqueue in bulk", "single": "enqueue one at a time, 50 callers"}
OURS = "chimpbase"
