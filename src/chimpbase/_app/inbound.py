"""Inbound: what the edges need to turn text from outside into the arguments of an action.

The rules are below, in the codec and in the parameters of a definition; the edges reach them through this door and no
other. Absent on purpose: HTTP and command lines, which differ in where the text comes from.
"""

from __future__ import annotations

from typing import Any

from chimpbase._core.codec_tree import parse_json
from chimpbase._core.parameters import REQUIRED, Parameter, Parameters

__all__ = ["REQUIRED", "Parameter", "Parameters", "read_json"]


def read_json(text: bytes) -> Any:
    """Parse a JSON document strictly: UTF-8, no key twice, no NaN, at most 100 levels, integers of 64 bits.

    Whether it fits a type is for that type's codec to say; `Parameter.codec` does, with a JSON path.

    Raises:
        ValueError: with a sentence that begins with a verb, such as "is not valid JSON: ...".
    """
    return parse_json(text)
