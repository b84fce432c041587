from __future__ import annotations

from tests.running import outside, start

__all__ = ["outside", "start"]
