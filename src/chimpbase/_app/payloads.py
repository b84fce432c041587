"""Payloads as a verb takes them."""

from __future__ import annotations

from typing import Any

from chimpbase._core.codec import Codec


def taken(codec: Codec[Any], payload: Any, subject: str, *, named: bool) -> Any:
    """By name a payload may come as builtins (`{"order_id": 1}`) where the declared type is a class."""
    if named and isinstance(payload, dict | list):
        return codec.convert(payload, subject=subject)
    return payload
