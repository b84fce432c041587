from __future__ import annotations

from tests.http.serving import serve
from tests.running import outside, start

__all__ = ["outside", "serve", "start"]
