"""Limits: how much and how long one client may take from everybody else."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server grants. Times are seconds, sizes are bytes.

    `head` is the request line with its headers, `body_idle_s` the longest pause inside a body, `body_s` the whole body
    of a request to an action. `requests` is how many are worked on at once; one more is answered 503 right away.
    `live` is how many readers of streams there are beside them, and `live_quiet_s` after how long without an entry they
    get a sign of life.
    """

    head_bytes: int = 32 * 1024
    head_s: float = 10.0
    body_bytes: int = MIB
    body_idle_s: float = 10.0
    body_s: float = 60.0
    answer_bytes: int = 16 * MIB
    keep_alive_s: int = 15
    requests: int = 1000
    ready_s: float = 2.0
    live: int = 1000
    live_quiet_s: float = 15.0
