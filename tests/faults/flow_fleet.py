"""The app of the random workflows, for processes of their own."""

from __future__ import annotations

from tests.faults.flows import build

app = build()
